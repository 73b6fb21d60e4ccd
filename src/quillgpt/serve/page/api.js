// The server: JSON, streams of events, and the key that it may want.

import { $ } from "./dom.js";

const KEY = "quill-key";
let asking = null; // one dialog answers all requests that wait for a key

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return a good answer; ask for the key if one is needed. */
async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not answer. Is quill serve still running?", 0);
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    if (response.status !== 401) throw new ApiError(body.error?.message ?? `The server answered ${response.status}.`, response.status);
    asking ??= askForKey(key !== null).finally(() => (asking = null));
    await asking;
  }
}

function askForKey(wasWrong) {
  const [dialog, input] = [$("key"), $("key-input")];
  $("key-wrong").hidden = !wasWrong;
  input.value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, input.value);
      dialog.close("given");
    };
    $("key-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      const given = dialog.returnValue === "given";
      dialog.returnValue = "";
      if (given) resolve();
      else reject(new ApiError("This server needs a key; load the page again to give it.", 401));
    };
  });
}

export const getJson = async (path) => (await ask(path)).json();

export async function trace(model, text) {
  return (await ask("/x/trace", { method: "POST", body: JSON.stringify({ model, text }) })).json();
}

export async function complete(body, signal) {
  const response = await ask("/v1/completions", { method: "POST", body: JSON.stringify(body), signal });
  return response.json();
}

/** Return the events of a completion, to be read as they come. */
export async function stream(body, signal) {
  const request = JSON.stringify({ ...body, stream: true });
  return events(await ask("/v1/completions", { method: "POST", body: request, signal }));
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new ApiError("The answer broke off: the server has ended or failed.", 0);
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const event of parts) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(parsed.error.message, 500);
      yield parsed;
    }
  }
}
