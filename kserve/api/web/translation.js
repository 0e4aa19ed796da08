// The translation on the page: sentences that can be chosen, and others for the chosen one.

import { element } from "./page.js";

export class Translation {
  // `ask(sentence)` promises other translations of a sentence of an answer.
  constructor(ask) {
    this.ask = ask;
    this.box = element("translation");
    this.box.addEventListener("click", (event) => this.#open(event.target));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    element("others-close").addEventListener("click", () => this.close());
    element("others").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  get text() {
    return this.box.textContent;
  }

  clear() {
    this.close(false);
    this.box.replaceChildren();
  }

  // A whole answer of the server: its text, with each sentence in an element of its own.
  show(answer) {
    this.close(false);
    this.sentences = answer.sentences;
    const text = Array.from(answer.text); // offsets count characters, not UTF-16 units
    const parts = [];
    let end = 0;
    this.sentences.forEach((sentence, number) => {
      const words = sentence.hypotheses[0].text;
      parts.push(text.slice(end, sentence.target_start).join(""), this.#sentence(words, number));
      end = sentence.target_start + Array.from(words).length;
    });
    parts.push(text.slice(end).join(""));
    this.box.replaceChildren(...parts);
  }

  // The sentences that are there already, in the order of the source; the rest still waits.
  showPart(source, found) {
    const parts = [];
    let at = 0;
    for (let number = 0; found.has(number); number += 1) {
      const { source: words, translation } = found.get(number);
      const start = Math.max(source.indexOf(words, at), at);
      parts.push(source.slice(at, start), translation);
      at = start + words.length;
    }
    const waits = document.createElement("span");
    waits.className = "waits";
    waits.textContent = " …";
    this.box.replaceChildren(...parts, waits);
  }

  close(takesFocus = true) {
    element("others").hidden = true;
    this.chosen?.setAttribute("aria-expanded", "false");
    if (takesFocus) this.chosen?.focus();
    this.chosen = null;
  }

  #sentence(words, number) {
    const span = document.createElement("span");
    span.className = "sentence";
    span.textContent = words;
    span.dataset.number = number;
    span.tabIndex = number === 0 ? 0 : -1;
    span.setAttribute("role", "button");
    span.setAttribute("aria-expanded", "false");
    if (this.sentences[number].suspicious) {
      span.classList.add("suspicious");
      span.title = "This translation may be wrong: its length is unusual, or it repeats itself.";
    }
    return span;
  }

  #key(event) {
    const spans = [...this.box.querySelectorAll(".sentence")];
    const at = spans.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#open(event.target);
    else if (!spans[to]) return;
    else {
      spans[at].tabIndex = -1;
      spans[to].tabIndex = 0;
      spans[to].focus();
    }
    event.preventDefault();
  }

  async #open(span) {
    if (!span.matches(".sentence")) return;
    this.close(false);
    this.chosen = span;
    span.setAttribute("aria-expanded", "true");
    const found = await this.ask(this.sentences[span.dataset.number]);
    if (this.chosen !== span || !found) return;
    const texts = [...new Set([...found, span.textContent])];
    element("others-list").replaceChildren(...texts.map((text) => this.#other(text)));
    element("others").hidden = false;
    element("others-list").querySelector("button").focus();
  }

  #other(text) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-pressed", String(text === this.chosen.textContent));
    button.addEventListener("click", () => {
      this.chosen.textContent = text;
      this.close();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}
