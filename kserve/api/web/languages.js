// The two lists of languages: what can be chosen, what is swapped.

import { element } from "./page.js";

const AUTO = "auto";

export class Languages {
  // `languages` as the server lists them; `changed` is called when the reader chooses others.
  constructor(languages, changed) {
    this.languages = languages;
    this.source = element("source");
    this.target = element("target");
    this.detected = null;
    const sources = languages.filter((one) => one.targets.some((target) => target !== one.code));
    fill(this.source, [{ code: AUTO, name: "Detect language" }, ...sources]);
    if (sources.length === 1) this.source.value = sources[0].code;
    this.#offerTargets();
    this.source.addEventListener("change", () => {
      this.detected = null;
      this.#offerTargets();
      changed();
    });
    this.target.addEventListener("change", () => {
      this.#showSwap();
      changed();
    });
  }

  // The source language as far as it is known.
  get known() {
    return this.source.value === AUTO ? this.detected?.language : this.source.value;
  }

  name(code) {
    return this.languages.find((one) => one.code === code)?.name ?? code;
  }

  // What the server found out: a language and how sure it is, or null.
  showDetected(detected) {
    this.detected = detected;
    const sure = detected && ` (${Math.round(100 * detected.confidence)} % sure)`;
    this.source.options[0].text = sure ? this.name(detected.language) + sure : "Detect language";
    this.#showSwap();
  }

  swap() {
    const [from, to] = [this.known, this.target.value];
    this.showDetected(null);
    this.source.value = to;
    this.#offerTargets();
    this.target.value = from;
    this.#showSwap();
  }

  #reaches(source, target) {
    return this.languages.find((one) => one.code === source)?.targets.includes(target);
  }

  #offerTargets() {
    const before = this.target.value;
    const from = this.source.value;
    const offered = this.languages.filter(({ code }) =>
      this.languages.some((one) => one.code !== code && (from === AUTO || one.code === from) && one.targets.includes(code)));
    fill(this.target, offered);
    const preferred = [before, "en"].find((code) => offered.some((one) => one.code === code));
    if (preferred) this.target.value = preferred;
    this.#showSwap();
  }

  #showSwap() {
    const can = this.known && this.known !== this.target.value && this.#reaches(this.target.value, this.known);
    element("swap").disabled = !can;
  }
}

function fill(select, languages) {
  select.replaceChildren(...languages.map(({ code, name }) => new Option(name, code)));
}
