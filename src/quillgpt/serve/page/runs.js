// The runs below the server's folder, followed while they train.

import { getJson } from "./api.js";
import { chart } from "./chart.js";
import { count, duration, h } from "./dom.js";

const PERIOD_MS = 2000;
const MOST_SAMPLES = 20;
const STATES = { training: "training", finished: "finished", stopped: "stopped" };
const loss = (value) => (value < 1e5 ? value.toFixed(3) : value.toExponential(1));
const short = (value) => String(Number(value.toPrecision(3))); // of a tick, or of a small number
const given = (value, spell) => (value === null || value === undefined ? "–" : spell(value));
const address = (name) => `/x/runs/${name.split("/").map(encodeURIComponent).join("/")}`;

export class RunsView {
  #timer = 0;
  #isFollowed = false;
  #items = new Map(); // name -> what its entry in the list consists of
  #chosen = null;
  #record = null; // {name, next, rows} of the chosen run

  constructor(element) {
    this.list = h("ul", {});
    this.details = h("article", { className: "run" });
    this.problem = h("p", { className: "problem", role: "alert", hidden: true });
    this.nothing = h("p", { className: "muted", hidden: true },
      "No run yet in the folder in which quill serve was started. quill train makes one; it appears here by itself.");
    element.append(this.problem, this.nothing, h("div", { className: "runs" }, h("nav", { "aria-label": "Runs" }, this.list), this.details));
    new ResizeObserver(() => this.#record && this.#draw()).observe(element);
    document.addEventListener("visibilitychange", () => this.#again(0));
  }

  /** Begin or end to ask the server. */
  follow(isFollowed) {
    this.#isFollowed = isFollowed;
    this.#again(0);
  }

  #again(milliseconds) {
    clearTimeout(this.#timer);
    if (this.#isFollowed && !document.hidden) this.#timer = setTimeout(() => this.#look(), milliseconds);
  }

  async #look() {
    try {
      const cards = (await getJson("/x/runs")).data;
      this.#show(cards);
      if (this.#chosen) await this.#read(this.#chosen);
      this.problem.hidden = true;
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
    }
    this.#again(PERIOD_MS);
  }

  #show(cards) {
    this.nothing.hidden = cards.length > 0;
    for (const name of this.#items.keys()) if (!cards.some((card) => card.name === name)) this.#remove(name);
    cards.forEach((card, place) => {
      const item = this.#items.get(card.name) ?? this.#add(card.name);
      item.state.textContent = STATES[card.state];
      item.state.className = `state ${card.state}`;
      item.progress.max = card.max_iters ?? card.iteration ?? 1;
      item.progress.value = card.iteration ?? 0;
      item.numbers.textContent = `${given(card.iteration, count)} of ${given(card.max_iters, count)} · loss ${given(card.val_loss ?? card.train_loss, loss)}`;
      // Moved only where its place has changed, since that takes the focus away.
      if (this.list.children[place] !== item.element) this.list.insertBefore(item.element, this.list.children[place] ?? null);
    });
    if (!this.#chosen && cards.length) this.#choose(cards[0].name);
  }

  #add(name) {
    const state = h("span", {});
    const progress = h("progress", { "aria-label": `Progress of ${name}` });
    const numbers = h("span", { className: "muted" });
    const choose = () => {
      this.#choose(name);
      this.#again(0);
    };
    const button = h("button", { type: "button", onclick: choose, "aria-current": "false" },
      h("span", { className: "name" }, name), state, progress, numbers);
    const item = { element: h("li", {}, button), button, state, progress, numbers };
    this.#items.set(name, item);
    return item;
  }

  #remove(name) {
    this.#items.get(name).element.remove();
    this.#items.delete(name);
    if (this.#chosen === name) {
      this.#chosen = this.#record = null;
      this.details.replaceChildren();
    }
  }

  #choose(name) {
    this.#chosen = name;
    this.#record = null;
    for (const [other, item] of this.#items) item.button.setAttribute("aria-current", String(other === name));
  }

  /** Read what a run has recorded since the last time. */
  async #read(name) {
    const record = this.#record ?? { name, next: 0, rows: [] };
    let answer;
    do {
      answer = await getJson(`${address(name)}?after=${record.next}`);
      if (name !== this.#chosen) return; // another was chosen meanwhile
      if (answer.first !== record.next) record.rows = [];
      for (const row of answer.rows) {
        // A resumed run repeats what came after its checkpoint.
        while (record.rows.length && record.rows.at(-1).iter > row.iter) record.rows.pop();
        record.rows.push(row);
      }
      record.next = answer.next;
    } while (answer.more);
    const isNew = answer.rows.length > 0 || record !== this.#record || answer.run.state !== record.run?.state;
    record.run = answer.run;
    this.#record = record;
    if (isNew) this.#draw();
  }

  #draw() {
    const { run, rows } = this.#record;
    const wide = this.details.clientWidth || 320;
    const half = wide > 520 ? Math.floor((wide - 24) / 2) : wide;
    const points = (kind, name) => rows.filter((row) => row.kind === kind && typeof row[name] === "number").map((row) => [row.iter, row[name]]);
    const losses = [{ name: "validation", points: points("eval", "val_loss") }, { name: "training", points: points("train", "loss") }];
    const one = (title, name, spell) => figure(title, [], chart({ title, curves: [{ name: "", points: points("train", name) }], spell, width: half, height: 150, from: 0 }));
    const samples = rows.filter((row) => row.kind === "sample" && typeof row.text === "string").slice(-MOST_SAMPLES).reverse();
    this.details.replaceChildren(
      h("h2", {}, run.name),
      facts([
        ["State", STATES[run.state]],
        ["Iteration", `${given(run.iteration, count)} of ${given(run.max_iters, count)}`],
        ["Validation loss", given(run.val_loss, loss)],
        ["Training loss", given(run.train_loss, loss)],
        ["Learning rate", given(run.learning_rate, short)],
        ["Tokens a second", given(run.tokens_per_second, count)],
        ["Time so far", given(run.seconds, duration)],
        ["Time left", run.state === "training" ? given(run.seconds_left, (left) => `about ${duration(left)}`) : "–"],
      ]),
      figure("Loss, nats per token", losses.map((curve) => curve.name), chart({ title: "Loss", curves: losses, spell: short, width: wide, height: 260 })),
      h("div", { className: "pair" }, one("Learning rate", "lr", short), one("Tokens a second", "tokens_per_second", count)),
      ...(samples.length ? [h("h3", {}, "Samples")] : []),
      ...samples.map((row) => h("figure", { className: "sample" },
        h("figcaption", {}, `after ${count(row.iter)} iterations`), h("blockquote", {}, row.text))),
    );
  }
}

function facts(pairs) {
  return h("dl", { className: "facts" }, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function figure(title, names, drawing) {
  const legend = names.map((name, i) => h("span", { className: i ? "curve-name" : "curve-name first" }, name));
  return h("figure", {}, h("figcaption", {}, title, ...legend), drawing ?? h("p", { className: "muted" }, "no numbers yet"));
}
