// The page that translates what is typed.

import { begin, element, milliseconds, say, sayRefusal, showCount, whole } from "./page.js";
import { events, post, request, Refusal } from "./server.js";
import { Languages } from "./languages.js";
import { Translation } from "./translation.js";

const REST = 120; // ms without a key before the text is sent
const SPEAK = 1000; // ms before a translation is read out: not while somebody types
const OTHERS = 5;

const text = element("text");
const translation = new Translation(others);
let languages, settings, models;
let timer, speaking, under; // what waits to be sent, to be spoken; what is under way

function changed() {
  clearTimeout(timer);
  timer = setTimeout(translate, REST);
}

function reset() {
  translation.clear();
  languages.showDetected(null);
  element("timing").textContent = "";
  element("spoken").textContent = "";
  element("copy").disabled = true;
}

async function translate() {
  clearTimeout(timer);
  under?.abort();
  under = new AbortController();
  const fits = showCount(text.value, settings.charLimit);
  if (!text.value.trim() || !fits) {
    reset();
    say(fits ? "" : `The text is longer than the ${whole(settings.charLimit)} characters that are allowed.`, !fits);
    return;
  }
  try {
    await follow(under.signal);
  } catch (error) {
    if (error.name !== "AbortError") failed(error);
  }
}

// Sends the text, and shows sentences as they come.
async function follow(signal) {
  const started = performance.now();
  const [source, target, sent] = [languages.source.value, languages.target.value, text.value];
  const body = { text: sent, source, target, decoding: { beam_size: beam(target) } };
  const found = new Map();
  for await (const { name, data } of events(await post("v1/translate/stream", body, signal))) {
    signal.throwIfAborted();
    if (name === "sentence") found.set(data.sentence, data);
    if (name === "sentence" && found.has(0)) translation.showPart(sent, found);
    if (name === "error") throw new Refusal(data.error, data.code);
    if (name === "done") show(data, performance.now() - started);
  }
}

function show(answer, ms) {
  const [found] = answer.translations;
  const { timing, usage } = answer;
  languages.showDetected(found.detected);
  text.lang = languages.known ?? "";
  translation.box.lang = found.target;
  if (found.sentences.length) translation.show(found);
  else translation.box.replaceChildren(found.text);
  element("copy").disabled = false;
  const speed = timing.decode_ms ? ` · ${whole((1000 * usage.target_tokens) / timing.decode_ms)} tokens/s` : "";
  element("timing").textContent = `${milliseconds(ms)} · ${whole(usage.target_tokens)} tokens${speed}`;
  element("timing").title = `engine ${milliseconds(timing.decode_ms)}, waiting ${milliseconds(timing.queue_ms)}`;
  say(found.source === found.target ? `The text is in ${languages.name(found.target)} already.` : "");
  clearTimeout(speaking);
  speaking = setTimeout(() => { element("spoken").textContent = translation.text.slice(0, 500); }, SPEAK);
}

function failed(error) {
  if (!(error instanceof Refusal)) throw error;
  sayRefusal(error, translate);
  if (!error.retry) return;
  say(`${error.message} Trying again in ${error.retry} s.`, true);
  timer = setTimeout(translate, 1000 * error.retry);
}

// The model's own beam: without it a stream would be greedy.
function beam(target) {
  const own = models.filter((one) => one.target === target && [one.source, undefined].includes(languages.known));
  return (own[0] ?? models.find((one) => one.target === target)).generation.beam_size;
}

async function others(sentence) {
  const body = {
    text: sentence.source,
    source: languages.known,
    target: languages.target.value,
    n_best: OTHERS,
    split_sentences: false,
  };
  try {
    const answer = await (await post("v1/translate", body)).json();
    return answer.translations[0].hypotheses.map((one) => one.text);
  } catch (error) {
    failed(error);
    return null;
  }
}

async function translateFile(file) {
  const stop = new AbortController();
  const form = new FormData();
  form.set("file", file);
  form.set("source", languages.source.value);
  form.set("target", languages.target.value);
  say(`Translating ${file.name} …`);
  element("cancel").hidden = false;
  element("cancel").onclick = () => stop.abort();
  try {
    const response = await request("v1/files", { method: "POST", body: form, signal: stop.signal });
    const name = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition"))[1];
    save(await response.blob(), decodeURIComponent(name));
  } catch (error) {
    if (error.name === "AbortError") say(`${file.name} was not translated.`);
    else sayRefusal(error, () => translateFile(file));
  } finally {
    element("cancel").hidden = true;
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${name} is saved.`);
}

async function copy() {
  if (navigator.clipboard) await navigator.clipboard.writeText(translation.text);
  else { // a page that came over plain HTTP from another machine has no clipboard of its own
    const range = document.createRange();
    range.selectNodeContents(translation.box);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  say("Copied.");
}

function swap() {
  const turned = translation.text;
  languages.swap();
  text.value = turned;
  say(`From ${languages.name(languages.source.value)} to ${languages.name(languages.target.value)}.`);
  translate();
}

function listen() {
  text.addEventListener("input", () => {
    showCount(text.value, settings.charLimit);
    changed();
  });
  element("swap").addEventListener("click", swap);
  element("copy").addEventListener("click", copy);
  element("clear").addEventListener("click", () => {
    text.value = "";
    translate();
    text.focus();
  });
  element("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) translateFile(target.files[0]);
    target.value = "";
  });
}

function listenForDrops() {
  const pane = element("source-pane");
  const holdsFile = (event) => event.dataTransfer.types.includes("Files");
  pane.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    pane.classList.add("dropping");
  });
  pane.addEventListener("dragleave", () => pane.classList.remove("dropping"));
  pane.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    pane.classList.remove("dropping");
    translateFile(event.dataTransfer.files[0]);
  });
}

async function start() {
  const told = await begin();
  ({ settings, models } = told);
  languages = new Languages(told.languages, translate);
  const kinds = settings.supportedFilesFormat;
  element("file").accept = kinds.join();
  element("kinds").textContent = `Kinds: ${kinds.join(", ")}`;
  listen();
  listenForDrops();
  translate(); // what the reader has typed already, or what the browser has kept
}

start().catch((error) => {
  say(error.message, true);
  if (error.retry) setTimeout(() => location.reload(), 1000 * error.retry);
});
