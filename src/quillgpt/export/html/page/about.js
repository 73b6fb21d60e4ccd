// What the page says about its model: what it is, what it was made from, and the certificate of its export.

import { count, h } from "./dom.js";

/** Return the elements of the fold "About this model". */
export function aboutElements(about, certificate) {
  const parts = [h("h3", {}, "The model"), list(about.model), h("h3", {}, "What it has learned from"), list(about.data)];
  if (about.sources.length) {
    parts.push(h("ul", { className: "sources" }, ...about.sources.map(({ location, bytes, sha256 }) =>
      h("li", {}, location, h("small", {}, ` ${count(bytes)} bytes, SHA-256 ${sha256.slice(0, 16)}…`)))));
  }
  return [...parts, h("h3", {}, "Certificate"), ...certificateElements(certificate)];
}

function list(entries) {
  return h("dl", { className: "facts" }, ...Object.entries(entries).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function certificateElements(certificate) {
  if (!certificate) return [h("p", {}, "This page has no certificate.")];
  const { checks, runtime, date, quill_version: version, model, number_type: type } = certificate;
  const by = runtime ? `This page was opened in ${runtime}, and compared with Quill` : "This page was not opened in a browser when it was made";
  const rows = checks.map(({ name, result, detail, largest_difference: largest, tolerance }) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, result), h("td", {}, detail + measured(largest, tolerance))));
  return [
    h("p", {}, `${by} ${version} on ${date}. The model is ${model}, its weights are ${type}.`),
    h("table", {}, h("thead", {}, h("tr", {}, ...["Check", "Result", "Found"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...rows)),
  ];
}

function measured(largest, tolerance) {
  return largest === null ? "" : `; the largest is ${largest.toExponential(1)}, at most ${tolerance} is allowed`;
}
