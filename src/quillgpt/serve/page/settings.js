// The settings of `quill sample` as fields. An empty field leaves the setting to the server, whose value it shows.

import { getJson } from "./api.js";
import { h } from "./dom.js";

const FIELDS = [
  ["max_tokens", "Most tokens", "0: only colour the text"],
  ["temperature", "Temperature", "below 1: more predictable; 0: the likeliest"],
  ["top_k", "top_k", "draw from this many of the likeliest; 0: all"],
  ["top_p", "top_p", "draw from the likeliest with this probability together"],
  ["min_p", "min_p", "draw from what has this share of the likeliest's"],
  ["repetition_penalty", "Repetition penalty", "above 1: less of what occurred"],
  ["presence_penalty", "Presence penalty", "taken from what occurred"],
  ["frequency_penalty", "Frequency penalty", "the same, times how often"],
  ["n", "Samples", "each is a branch; 8 at most here"],
  ["seed", "Seed", "the same gives the same text; empty: drawn"],
];
/** Where the page differs from the API. JavaScript's numbers cannot spell longer seeds. */
const OWN = { max_tokens: { default: 200 }, n: { maximum: 8 }, seed: { maximum: Number.MAX_SAFE_INTEGER } };
const STORE = "quill-settings";

export class Settings {
  #inputs = {};

  /** Fill a container with the fields; what was typed before in this tab is there again. */
  async fill(container) {
    const schemas = (await getJson("/openapi.json")).components.schemas.CompletionRequest.properties;
    for (const [name, title, help] of FIELDS) {
      const schema = schemas[name];
      const limits = { ...schema.anyOf?.find((kind) => kind.type !== "null"), default: schema.default, ...OWN[name] };
      this.#add(container, name, title, help, h("input", {
        id: `set-${name}`, type: "number", step: limits.type === "integer" ? "1" : "any", inputMode: "decimal",
        min: limits.minimum ?? (limits.exclusiveMinimum === undefined ? "" : "1e-9"), max: limits.maximum ?? "",
        placeholder: limits.default === null ? (name === "seed" ? "drawn" : "none") : String(limits.default),
      }));
    }
    const stop = h("textarea", { id: "set-stop", rows: 2, spellcheck: false, placeholder: "none" });
    this.#add(container, "stop", "Stop before", "up to four texts, one a line; \\n is a line break", stop);
    const before = JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
    for (const [name, input] of Object.entries(this.#inputs)) input.value = before[name] ?? "";
    container.addEventListener("input", () => {
      const values = Object.entries(this.#inputs).map(([name, input]) => [name, input.value]);
      sessionStorage.setItem(STORE, JSON.stringify(Object.fromEntries(values)));
    });
  }

  #add(container, name, title, help, input) {
    input.setAttribute("aria-describedby", `help-${name}`);
    this.#inputs[name] = input;
    container.append(h("div", { className: "field" }, h("label", { htmlFor: input.id }, title), input,
      h("small", { id: `help-${name}` }, help)));
  }

  /** Return what was set, as a request has it; null after showing what is wrong with it. */
  read() {
    const asked = { max_tokens: OWN.max_tokens.default };
    for (const [name, input] of Object.entries(this.#inputs)) {
      if (name === "stop") continue;
      if (!input.checkValidity()) {
        input.closest("details").open = true;
        input.reportValidity();
        return null;
      }
      if (input.value !== "") asked[name] = Number(input.value);
    }
    const stops = this.#inputs.stop?.value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n"));
    if (stops?.length) asked.stop = stops;
    return asked;
  }
}
