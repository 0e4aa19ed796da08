// The page on which a K-matrix model and its dense twin race.

import { begin, element, milliseconds, say, sayRefusal, showCount, whole } from "./page.js";
import { post } from "./server.js";

const EXAMPLES = {
  de: "Der Zug nach Hamburg hat heute eine halbe Stunde Verspätung.",
  en: "The train to Hamburg is half an hour late today.",
};

const text = element("text");
let models, limit;

const model = () => models[element("pair").selectedIndex];

function offerExample() {
  const own = Object.values(EXAMPLES).includes(text.value) || !text.value;
  if (own) text.value = EXAMPLES[model().source] ?? "";
  text.lang = model().source;
  showCount(text.value, limit);
}

async function race(event) {
  event?.preventDefault();
  if (!text.value.trim() || !showCount(text.value, limit)) return;
  say("They run …");
  element("start").disabled = true;
  try {
    const { source, target } = model();
    const answer = await post("v1/compare", { text: text.value, source, target });
    show(await answer.json(), target);
    say("");
  } catch (error) {
    sayRefusal(error, race);
  } finally {
    element("start").disabled = false;
  }
}

function show(found, target) {
  const slowest = Math.max(found.kmatrix.median_ms, found.dense.median_ms);
  for (const name of ["kmatrix", "dense"]) {
    const one = found[name];
    const speed = (1000 * one.tokens) / one.median_ms;
    element(`${name}-ms`).textContent = milliseconds(one.median_ms);
    element(`${name}-text`).textContent = one.text;
    element(`${name}-text`).lang = target;
    element(`${name}-facts`).textContent =
      `${whole(one.linear_parameters)} numbers in linear layers (${one.precision}), ` +
      `${(one.weight_bytes / 1e6).toFixed(1)} MB of weights, ${whole(one.tokens)} tokens, ${whole(speed)} tokens/s`;
    element(`${name}-bar`).style.width = "0";
  }
  element("result").hidden = false;
  element("verdict").textContent = verdict(found);
  element("conditions").textContent =
    `The engine's time, one thread, ${found.isa}; the median of ${found.runs} runs of each, in turn.`;
  requestAnimationFrame(() => requestAnimationFrame(() => {
    for (const name of ["kmatrix", "dense"]) {
      element(`${name}-bar`).style.width = `${(100 * found[name].median_ms) / slowest}%`;
    }
  }));
}

function verdict({ kmatrix, dense }) {
  const ratio = dense.median_ms / kmatrix.median_ms;
  const speed = ratio >= 1 ? `${ratio.toFixed(1)} × as fast as` : `${(1 / ratio).toFixed(1)} × slower than`;
  const same = kmatrix.text === dense.text ? "both say the same" : "they say it differently";
  return `K-matrices were ${speed} their dense twin; ${same}.`;
}

async function start() {
  const told = await begin();
  models = told.models;
  limit = Number(document.documentElement.dataset.compareCharacters);
  const names = Object.fromEntries(told.languages.map((one) => [one.code, one.name]));
  const options = models.map((one) => new Option(`${one.name}: ${names[one.source]} to ${names[one.target]}`));
  element("pair").replaceChildren(...options);
  element("pair").addEventListener("change", offerExample);
  text.addEventListener("input", () => showCount(text.value, limit));
  element("race").addEventListener("submit", race);
  offerExample();
}

start().catch((error) => {
  say(error.message, true);
  if (error.retry) setTimeout(() => location.reload(), 1000 * error.retry);
});
