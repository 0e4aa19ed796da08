// What both pages have: links that this server offers, the message, the key, the models' names.

import { getJson, keepKey } from "./server.js";

export const element = (id) => document.getElementById(id);

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fractions = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export const whole = (number) => numbers.format(number);
export const milliseconds = (ms) => `${ms < 99.5 ? fractions.format(ms) : numbers.format(ms)} ms`;

// Characters as the server counts them.
export const characters = (text) => {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
};

export function say(message, isWrong = false) {
  element("message").textContent = message;
  element("message").classList.toggle("wrong", isWrong);
}

// Shows what went wrong; `again` is what to do when a key was given.
export function sayRefusal(refusal, again) {
  if (refusal.needsKey) askForKey(again);
  say(refusal.message, true);
}

export function showCount(text, limit) {
  const count = characters(text);
  const isTooMuch = limit > 0 && count > limit;
  const shown = limit > 0 ? `${whole(count)} / ${whole(limit)}` : whole(count);
  element("count").textContent = isTooMuch ? `${shown}: too long` : shown;
  element("count").classList.toggle("too-much", isTooMuch);
  return !isTooMuch;
}

// The server's settings, languages and models.
export async function begin() {
  const offers = document.documentElement.dataset.offers.split(" ");
  for (const link of document.querySelectorAll("[data-needs]")) {
    link.hidden = !offers.includes(link.dataset.needs);
  }
  const asked = ["frontend/settings", "languages", "v1/models"].map(getJson);
  const [settings, languages, { models }] = await Promise.all(asked);
  element("models").textContent = models.map((one) => `${one.name} (${one.isa})`).join(" · ");
  if (settings.keyRequired && !sessionStorage.length) askForKey(() => {});
  return { settings, languages, models };
}

function askForKey(again) {
  element("key-form").hidden = false;
  element("key-form").onsubmit = (event) => {
    event.preventDefault();
    keepKey(element("key").value.trim());
    element("key-form").hidden = true;
    say("");
    again();
  };
}
