// Curves as SVG.

import { count, s } from "./dom.js";

const MARGIN = { top: 10, right: 12, bottom: 24, left: 52 };
const MOST_POINTS = 600; // more than a screen has columns only cost time

/** Return round numbers that divide a range into about `parts`. */
export function ticks(low, high, parts) {
  const rough = (high - low) / parts || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.99);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function thinned(points) {
  const step = Math.ceil(points.length / MOST_POINTS);
  return points.filter((_, i) => i % step === 0 || i === points.length - 1);
}

/**
 * Return a figure of curves over iterations.
 *
 * `curves` are {name, points: [[x, y], ...]}; the first stands out. `spell` writes a value at the axis.
 */
export function chart({ title, curves, spell, width, height, from }) {
  const drawn = curves.filter((curve) => curve.points.length);
  const all = drawn.flatMap((curve) => curve.points);
  if (!all.length) return null;
  const ys = all.map(([, y]) => y);
  const [low, high] = [from ?? Math.min(...ys), Math.max(...ys)];
  const most = Math.max(...all.map(([x]) => x), 1);
  const room = high - low || Math.abs(high) || 1;
  const [bottom, top] = [from ?? low - 0.05 * room, high + 0.05 * room];
  const x = (value) => MARGIN.left + (value / most) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - ((value - bottom) / (top - bottom)) * (height - MARGIN.top - MARGIN.bottom);
  const said = drawn.map(({ name, points }) => `${name} ${spell(points.at(-1)[1])}`).join(", ");
  const figure = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${said}, after ${count(most)} iterations` });
  for (const value of ticks(bottom, top, height / 38)) {
    figure.append(s("line", { class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      s("text", { class: "tick end", x: MARGIN.left - 8, y: y(value) + 4 }, spell(value)));
  }
  const places = ticks(0, most, Math.max(2, Math.min(6, width / 110)));
  for (const value of places) figure.append(s("text", { class: "tick middle", x: x(value), y: height - 6 }, count(value)));
  drawn.toReversed().forEach(({ points }, i) => {
    const path = thinned(points).map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" ");
    const style = i === drawn.length - 1 ? "curve first" : "curve";
    figure.append(points.length > 1 ? s("polyline", { class: style, points: path })
      : s("circle", { class: style, cx: x(points[0][0]), cy: y(points[0][1]), r: 2.5 }));
  });
  return figure;
}
