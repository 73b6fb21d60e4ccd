// Elements made in one expression, so that a view reads like what it shows.

export const $ = (id) => document.getElementById(id);

/** Return an element: properties are set as such, `on...` functions listen, names with a hyphen become attributes. */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** The same for SVG, whose properties are all attributes. */
export function s(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(Math.round(number));

export const percent = (share) => (share < 0.0005 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`);

/** Spell a time as people say it, with two units at most. */
export function duration(seconds) {
  const all = Math.round(seconds);
  if (all < 60) return `${all} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min ${all % 60} s`;
  return `${count(Math.floor(all / 3600))} h ${Math.floor((all % 3600) / 60)} min`;
}
