// The page: a prompt, settings, and the text that the model writes, token by token with its alternatives.

import { aboutElements } from "./about.js";
import { Card } from "./card.js";
import { $, count, h } from "./dom.js";
import { Engine, missing } from "./engine.js";
import { textOf } from "./tokens.js";

const PAGE = 20; // tokens that PageUp and PageDown pass
const ENDS = { stop: "ended at the stop text", end_of_text: "ended by itself", length: "", stopped: "stopped" };

const card = new Card();
const past = []; // what was shown before, to go back to
const nothing = { prompt: [], text: "", pieces: [], ids: [], note: "" };
let shown = nothing; // the ids and the text of the prompt, the pieces after it and their ids, and what is said of them
let engine = null;
let isWriting = false;
let writings = 0; // how often it has begun to write
let at = 0; // the piece that Tab leads to

function problem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

/** Return the settings; null after showing what is wrong with them. */
function settings() {
  const wrong = [...$("settings").querySelectorAll("input")].find((input) => !input.checkValidity());
  if (wrong) {
    $("settings").open = true;
    wrong.reportValidity();
    return null;
  }
  const number = (name) => Number($(`set-${name}`).value);
  return {
    max_new_tokens: number("max_new_tokens"),
    temperature: number("temperature"),
    top_k: number("top_k"),
    top_p: $("set-top_p").value === "" ? null : number("top_p"),
    seed: $("set-seed").value || String(crypto.getRandomValues(new Uint32Array(1))[0]),
    stop: $("set-stop").value.replaceAll("\\n", "\n"),
  };
}

function show(state) {
  shown = state;
  at = 0;
  card.hide();
  $("text").replaceChildren(h("span", { className: "prompt" }, state.text), ...state.pieces.map(span));
  $("status").textContent = state.note;
  $("more").hidden = state === nothing;
  $("undo").disabled = !past.length;
}

function span(piece, index) {
  const element = h("span", { className: "t", tabIndex: index === at ? 0 : -1 }, piece.text);
  element.dataset.at = index;
  return element;
}

function setWriting(now) {
  isWriting = now;
  $("stop").disabled = !now;
  $("text").setAttribute("aria-busy", String(now));
}

/** Go on after a prompt and pieces that are kept; before that, what is shown goes to the past. */
async function write(prompt, text, kept, asked) {
  while (isWriting) await stop(); // somebody else may have waited as well, and write now
  past.push(shown);
  const state = { prompt, text, pieces: [...kept], ids: kept.flatMap((piece) => piece.ids), note: "Writing …" };
  show(state);
  writings += 1;
  setWriting(true);
  const began = performance.now();
  try {
    const { ids, ended } = await engine.ask("write", { prompt, past: state.ids, settings: asked }, (piece) => {
      state.pieces.push({ ...piece, size: piece.ids.length });
      if (shown === state) $("text").append(span(piece, state.pieces.length - 1));
    });
    const rate = (1000 * ids.length) / (performance.now() - began);
    const parts = [`${count(ids.length)} tokens, ${count(rate)} a second`, `seed ${asked.seed}`];
    state.ids = [...state.ids, ...ids];
    state.ended = ended;
    if (ENDS[ended]) parts.push(ENDS[ended]);
    state.note = parts.join(" · ");
  } catch (error) {
    state.note = "";
    problem(error.message);
  }
  if (shown === state) $("status").textContent = state.note;
  setWriting(false);
}

async function begin() {
  problem("");
  const asked = settings();
  if (!asked || !engine || $("go").disabled) return;
  try {
    const { ids, text, note } = await engine.ask("prompt", { text: $("prompt").value });
    problem(note);
    await write(ids, text, [], asked);
  } catch (error) {
    problem(error.message);
  }
}

function goOn() {
  const asked = settings();
  if (asked) write(shown.prompt, shown.text, shown.pieces, asked);
}

/** Go on from an alternative to a piece. */
function pick(index, name, logprob) {
  const asked = settings();
  if (!asked) return;
  const piece = shown.pieces[index];
  const id = piece.top.find(([other]) => other === name)[2];
  const first = { ...piece, text: name, logprob, ids: [id], size: 1 };
  const writing = write(shown.prompt, shown.text, [...shown.pieces.slice(0, index), first], asked);
  focus(index);
  return writing;
}

/** Ask the worker to stop what it writes, and wait until it has. */
async function stop() {
  const own = writings;
  await engine.ask("stop");
  while (isWriting && own === writings) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function undo() {
  while (isWriting) await stop();
  if (past.length) show(past.pop());
  $("undo").disabled = !past.length;
  if (!past.length && document.activeElement === $("undo")) $("go").focus();
}

const pieceElement = (index) => $("text").querySelector(`[data-at="${index}"]`);

function focus(index) {
  pieceElement(index)?.focus();
}

function listenToText() {
  const open = (index, how) => how(pieceElement(index), shown.pieces[index], (...other) => pick(index, ...other));
  const on = (name, act) => $("text").addEventListener(name, (event) => {
    if (event.target.dataset?.at !== undefined) act(Number(event.target.dataset.at), event);
  });
  on("pointerover", (index, event) => event.pointerType === "mouse" && open(index, (...what) => card.hover(...what)));
  on("pointerout", (_, event) => event.pointerType === "mouse" && card.leave());
  on("click", (index) => open(index, (...what) => card.show(...what, { pinned: true })));
  on("focusin", (index, event) => {
    const before = pieceElement(at);
    if (before) before.tabIndex = -1;
    at = index;
    event.target.tabIndex = 0;
    if (event.target.matches(":focus-visible")) open(index, (...what) => card.show(...what));
  });
  on("keydown", (index, event) => {
    const last = shown.pieces.length - 1;
    const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last, PageDown: index + PAGE, PageUp: index - PAGE };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in moves) focus(Math.max(0, Math.min(last, moves[event.key])));
    else if (["ArrowDown", "Enter", " "].includes(event.key)) {
      open(index, (...what) => card.show(...what, { pinned: true }));
      card.enter();
    } else return;
    event.preventDefault();
  });
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    begin();
  });
  $("stop").addEventListener("click", stop);
  $("undo").addEventListener("click", undo);
  $("on").addEventListener("click", goOn);
  $("edit").addEventListener("click", () => {
    $("prompt").value = shown.text + textOf(shown.pieces);
    $("prompt").focus();
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, textarea");
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "Enter") begin();
    else if (command && event.key === "z" && !isTyping && past.length) undo();
    else if (event.key === "Escape" && card.isOpen) card.hide();
    else if (event.key === "Escape" && isWriting) stop();
    else return;
    event.preventDefault();
  });
  listenToText();
}

/** Give the worker the weights in the element before the script that is running now. */
function take() {
  const { previousElementSibling: element } = document.currentScript;
  engine?.ask("weights", { text: element.textContent, gzip: "gzip" in element.dataset });
  element.remove(); // the worker has its own copy
}

async function start() {
  const about = JSON.parse($("model").textContent);
  $("about").querySelector("div").append(...aboutElements(about, JSON.parse($("certificate").textContent)));
  const lacks = missing();
  if (lacks) {
    $("status").textContent = "";
    problem(`This browser cannot run the model: it has no ${lacks}. Chrome and Edge 91, Firefox 113 and Safari 16.4 have it, and all later ones.`);
    return;
  }
  listen();
  try {
    engine = new Engine();
    engine.ask("load", { about, kernel: $("kernel").textContent });
    await new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve)); // `take` until then
    await engine.ask("ready");
  } catch (error) {
    $("status").textContent = "";
    problem(`The model could not be loaded: ${error.message}`);
    return;
  }
  globalThis.quill = engine; // for checks
  $("go").disabled = false;
  $("status").textContent = "";
  document.body.dataset.ready = "true";
}

start();
