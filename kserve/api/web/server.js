// Requests to the server. Addresses are relative to <base>, so a proxy may put a path before them.

const KEY = "kserve-key";

// What the server refused, or could not be asked. `retry`: seconds after which it may work, or 0.
export class Refusal extends Error {
  constructor(message, code, retry = 0) {
    super(message);
    this.code = code;
    this.retry = retry;
  }

  get needsKey() {
    return this.code === "key_needed" || this.code === "invalid_key";
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

// The response of a request that was accepted; throws a Refusal, or an AbortError when it was called off.
export async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached.", "unreachable", 3);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function getJson(path) {
  return (await request(path)).json();
}

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

// Server-sent events of a response as they arrive: {name, data}.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block);
        yield { name, data: JSON.parse(data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function refusal(response) {
  const retry = Number(response.headers.get("Retry-After") ?? 0);
  try {
    const { error, code } = await response.json();
    return new Refusal(error, code, retry);
  } catch {
    return new Refusal(`The server answered ${response.status}.`, "http", retry);
  }
}
