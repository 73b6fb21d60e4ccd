// The page as a whole: views, the box for the text, the models side by side, undo, and keys.

import { getJson } from "./api.js";
import { Card } from "./card.js";
import { $, h } from "./dom.js";
import { RunsView } from "./runs.js";
import { Settings } from "./settings.js";
import { Sheet } from "./sheet.js";

const DRAFT = "quill-text";
const settings = new Settings();
const card = new Card();
const sheets = new Map(); // model name -> sheet
const past = []; // [sheet, node] to go back to
const runs = new RunsView($("runs"));

const shown = () => [...sheets.values()].filter((sheet) => sheet.element.isConnected);

const page = {
  card,
  settings: () => {
    problem("");
    return settings.read();
  },
  remember: (sheet) => {
    past.push([sheet, sheet.current]);
    $("undo").disabled = false;
    $("legend").hidden = false;
  },
  changed: () => ($("stop").disabled = !shown().some((sheet) => sheet.isWriting)),
  edit: (text) => {
    $("prompt").value = text;
    keepDraft();
    $("prompt").focus();
  },
  traces: () => $("trace").checked,
  problem,
};

function problem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

const keepDraft = () => sessionStorage.setItem(DRAFT, $("prompt").value);

function write() {
  const asked = page.settings();
  if (!asked) return;
  for (const sheet of shown()) sheet.write($("prompt").value, asked);
}

function stop() {
  for (const sheet of sheets.values()) sheet.stop();
}

function undo() {
  const [sheet, node] = past.pop() ?? [];
  card.hide();
  sheet?.stop();
  sheet?.goTo(node);
  $("undo").disabled = !past.length;
  if (!past.length && document.activeElement === $("undo")) $("go").focus();
}

/** Show a model's sheet, or put it away with all that it has written; one stays. */
function toggle(model, button) {
  const sheet = sheets.get(model.id) ?? new Sheet(model, page);
  sheets.set(model.id, sheet);
  if (!sheet.element.isConnected) $("sheets").append(sheet.element);
  else if (shown().length > 1) {
    sheet.stop();
    sheet.element.remove();
  }
  button?.setAttribute("aria-pressed", String(sheet.element.isConnected));
}

function showView(name, { focus = false } = {}) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const isShown = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !isShown;
    if (isShown && focus) tab.focus();
  }
  card.hide();
  runs.follow(name === "runs");
  history.replaceState(null, "", name === "runs" ? "#runs" : location.pathname);
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  $("prompt").addEventListener("input", keepDraft);
  $("stop").addEventListener("click", stop);
  $("undo").addEventListener("click", undo);
  $("trace").addEventListener("change", () => shown().forEach((sheet) => sheet.trace()));
  $("all").addEventListener("change", (event) => $("sheets").classList.toggle("all", event.target.checked));
  for (const name of ["write", "runs"]) {
    $(`tab-${name}`).addEventListener("click", () => showView(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (["ArrowLeft", "ArrowRight"].includes(event.key)) showView(name === "runs" ? "write" : "runs", { focus: true });
    });
  }
  document.addEventListener("keydown", (event) => {
    if ($("key").open || $("write").hidden) return;
    const isTyping = event.target.matches("input, textarea");
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "Enter") write();
    else if (command && event.key === "z" && !isTyping && past.length) undo();
    else if (event.key === "Escape" && card.isOpen) card.hide();
    else if (event.key === "Escape") stop();
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", () => showView(location.hash === "#runs" ? "runs" : "write"));
}

async function start() {
  $("prompt").value = sessionStorage.getItem(DRAFT) ?? "";
  listen();
  try {
    const models = (await getJson("/v1/models")).data;
    await settings.fill($("settings").querySelector(".grid"));
    if (models.length > 1) {
      $("models").hidden = false;
      $("models").append(...models.map((model) => h("button", {
        type: "button", "aria-pressed": "false", onclick: (event) => toggle(model, event.currentTarget),
      }, model.id)));
    }
    toggle(models[0], $("models").firstElementChild);
    document.body.dataset.ready = "true";
  } catch (error) {
    problem(error.message);
  }
  if (location.hash === "#runs") showView("runs");
}

start();
