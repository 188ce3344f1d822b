// The page: asks its own server about pictures. No build step, no library, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const KEY = "idefics2-onnx API key";
const LOOK_AGAIN = 2000; // milliseconds between two looks at a server that is loading its model
const NEAR_THE_END = 80; // pixels from the page's end within which it follows an answer that grows
const PRICE = { type: "string", pattern: "^[0-9]{1,4}\\.[0-9]{2}$" };
const EXAMPLE = {
  type: "object",
  properties: {
    items: {
      type: "array",
      maxItems: 20, // what has no end may get none
      items: {
        type: "object",
        properties: { name: { type: "string", maxLength: 40 }, price: PRICE },
        required: ["name", "price"],
        additionalProperties: false,
      },
    },
    total: PRICE,
  },
  required: ["items", "total"],
  additionalProperties: false,
};

/** A sentence for the person at the page. */
class Problem extends Error {}

/** What the server says of its model; empty until it has said so. */
const model = { id: "", cuts: false, positions: 0 };
/** Questions in their order, with what became of each. */
const turns = [];
/** Pictures of the question that is being written. */
const pictures = [];
/** What stops the answer that is under way. */
let running = null;

// ---- Elements

/** An element with attributes, listeners (functions) and children. A text is always text: no answer becomes HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function say(sentence, where = $("problem")) {
  where.textContent = sentence;
}

function number(value, digits = 0) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function seconds(value) {
  return `${number(value, value < 10 ? 2 : 1)} s`;
}

// ---- The server

/** The response to a call; asks for an API key where the server does, and calls again. */
async function call(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await request(path, body, signal, key);
    if (response.ok) return response;
    if (response.status !== 401) throw new Problem(await sentenceOf(response));
    const another = sessionStorage.getItem(KEY) !== key; // given while this call was under way
    if (!another && !(await askKey(key === null ? "" : await sentenceOf(response)))) {
      $("give-key").hidden = false;
      throw new Problem("The server answers with an API key only. Give the key, then try again.");
    }
  }
}

async function request(path, body, signal, key) {
  const headers = { ...(body && { "content-type": "application/json" }), ...(key && { authorization: `Bearer ${key}` }) };
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("The server cannot be reached. See whether it still runs, then try again.");
  }
}

async function sentenceOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}${response.statusText && ` (${response.statusText})`}. Try again.`;
  }
}

/** The data of each server-sent event, until the server says that it is done. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const whole = (rest + value).split(/\r?\n\r?\n/);
      rest = whole.pop();
      for (const event of whole) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:")); // others keep the connection alive
        const data = lines.map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
  } finally {
    reader.cancel().catch(() => {}); // nothing to cancel where the connection is gone
  }
  throw new Problem("The answer broke off: the connection to the server ended. Try again.");
}

async function lookAtModel() {
  try {
    const [own] = (await (await call("v1/models")).json()).data;
    const about = own.idefics2_onnx ?? {};
    model.id = own.id;
    model.cuts = Boolean(about.can_split_images);
    model.positions = about.max_positions ?? 0;
    $("model").textContent = [own.id, about.architecture].filter((one, at, all) => one && all.indexOf(one) === at).join(" · ");
    $("cutting").hidden = !model.cuts;
    $("splitting").checked = Boolean(about.image_splitting);
    if (about.default_max_tokens) $("tokens").placeholder = about.default_max_tokens;
    $("give-key").hidden = true;
  } catch (problem) {
    $("model").textContent = problem.message;
    if ($("give-key").hidden) setTimeout(lookAtModel, LOOK_AGAIN); // it may still be loading
  }
}

// ---- The API key: kept in this tab's session storage, nowhere else

let asking = null;

/** Whether a key was given; calls that ask at the same time share one dialog. */
function askKey(problem) {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    say(problem, $("key-problem"));
    $("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
    dialog.showModal();
    $("key").focus();
  }).finally(() => (asking = null));
  return asking;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!/^[!-~]+$/.test(key)) { // no header can hold it, so no call would ever come to the server to be told that it is wrong
    say("A key has letters, digits and signs of ASCII, without spaces. Copy it again.", $("key-problem"));
    $("key").focus();
    return;
  }
  sessionStorage.setItem(KEY, key);
  $("key-dialog").close("given");
  if (!$("give-key").hidden) lookAtModel(); // which gave up without a key
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close(""));
$("give-key").addEventListener("click", () => askKey(""));

// ---- Pictures

/** What is sent of a picture, as OpenAI's API has it; `detail` turns cutting into tiles on and off. */
function imageUrl(picture) {
  return { url: picture.url, ...(model.cuts && { detail: $("splitting").checked ? "high" : "low" }) };
}

async function add(files) {
  const refused = [];
  for (const file of files) {
    if (file.type === "image/svg+xml") refused.push(`${file.name} is an SVG, which has to be rendered first.`);
    else if (!file.type.startsWith("image/")) refused.push(`${file.name} is no picture.`);
    else await addOne(file).catch(() => refused.push(`${file.name} cannot be read.`));
  }
  say(refused.length ? `${refused.join(" ")} Add a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF.` : "");
}

async function addOne(file) {
  const picture = { name: file.name || "picture", url: await dataUrl(file) };
  show(picture);
  const remove = () => {
    pictures.splice(pictures.indexOf(picture), 1);
    picture.item.remove();
    $("question").focus();
  };
  const label = `Remove ${picture.name}`;
  const attributes = { type: "button", class: "remove", "aria-label": label, title: label, click: remove };
  picture.item.append(element("button", attributes, "×"));
  pictures.push(picture);
  $("pictures").append(picture.item);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

/** Give a picture its place on the page, with its tiles below it. */
function show(picture) {
  picture.image = element("img", { src: picture.url, alt: picture.name });
  picture.summary = element("summary", {}, picture.name);
  picture.tiles = element("ol", { class: "tiles" });
  picture.item = element("li", { class: "picture" }, picture.image, element("details", {}, picture.summary, picture.tiles));
  lookAtTiles(picture);
}

/** Ask for the tiles that the model sees of a picture. */
async function lookAtTiles(picture) {
  const asked = (picture.asked = imageUrl(picture));
  try {
    const response = await call("v1/tiles", { image_url: asked.url, ...(asked.detail && { detail: asked.detail }) });
    const { tiles } = await response.json();
    if (picture.asked !== asked) return; // asked again meanwhile
    picture.summary.className = "";
    picture.summary.textContent = `${picture.name} · ${tiles.length === 1 ? "1 tile" : `${tiles.length} tiles`}`;
    picture.tiles.className = tiles.length === 5 ? "tiles split" : "tiles";
    picture.tiles.replaceChildren(...tiles.map(tile));
    await picture.image.decode().catch(() => (picture.image.src = tiles.at(-1).image)); // a TIFF, say, is no browser's format
  } catch (problem) {
    picture.summary.className = "cannot";
    picture.summary.textContent = `${picture.name}: ${problem.message}`;
    picture.tiles.replaceChildren();
  }
}

function tile({ width, height, image }, at, all) {
  const alt = `Tile ${at + 1} of ${all.length}, ${width} by ${height} pixels`;
  return element("li", {}, element("img", { src: image, width, height, alt, title: alt }));
}

$("pick").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", async () => {
  await add([...$("files").files]);
  $("files").value = ""; // so that the same file can be chosen again
  $("question").focus();
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add([...event.clipboardData.files]);
});
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
}
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) $("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  add([...event.dataTransfer.files]);
});

// ---- Settings

$("temperature").addEventListener("input", () => ($("temperature-shown").textContent = $("temperature").value));
$("splitting").addEventListener("change", () => {
  for (const picture of [...turns.flatMap((turn) => turn.pictures), ...pictures]) lookAtTiles(picture);
});
$("schema").addEventListener("input", readSchema);
$("example").addEventListener("click", () => setSchema(JSON.stringify(EXAMPLE, null, 2)));
$("clear-schema").addEventListener("click", () => setSchema(""));

function setSchema(text) {
  $("schema").value = text;
  readSchema();
}

/** The schema that was written, null without one, undefined where it is wrong: then the problem is shown beside it. */
function readSchema() {
  const text = $("schema").value.trim();
  let schema = null;
  let problem = "";
  try {
    schema = text ? JSON.parse(text) : null;
    if (schema !== null && !isObject(schema)) problem = "A schema is a JSON object, in braces.";
  } catch (error) {
    problem = `This is not JSON yet (${error.message}).`;
  }
  say(problem, $("schema-problem"));
  $("schema").setAttribute("aria-invalid", Boolean(problem));
  return problem ? undefined : schema;
}

/** What the settings say of an answer. */
function options() {
  const schema = readSchema();
  if (schema === undefined) throw new Problem("The JSON schema is not right. Correct it, or choose plain text.");
  if (!$("tokens").checkValidity()) throw new Problem("The most tokens of an answer are a whole number above 0.");
  return {
    temperature: $("temperature").valueAsNumber,
    ...($("tokens").value && { max_tokens: $("tokens").valueAsNumber }),
    ...(schema && { response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } } }),
  };
}

// ---- Turns

/** Everything up to a turn, as the API takes it: a turn's pictures first. Turns without an answer are left out. */
function messagesTo(last) {
  return turns.filter((turn) => turn.text || turn === last).flatMap((turn) => {
    const images = turn.pictures.map((picture) => ({ type: "image_url", image_url: imageUrl(picture) }));
    const asked = { role: "user", content: [...images, { type: "text", text: turn.question }] };
    return turn === last ? [asked] : [asked, { role: "assistant", content: turn.text }];
  });
}

function begin(question) {
  const turn = { question, pictures: pictures.splice(0), text: "" };
  const list = element("ul", { class: "pictures" });
  for (const picture of turn.pictures) {
    picture.item.querySelector(".remove").remove();
    list.append(picture.item);
  }
  turn.answer = element("div", { class: "answer", "aria-live": "polite" });
  const heading = element("h2", { class: "unseen" }, "Question");
  const asked = element("div", { class: "question" }, heading, list, element("p", {}, question));
  turn.item = element("li", { class: "turn" }, asked, turn.answer);
  $("turns").querySelector(".answer > .buttons")?.remove();
  $("turns").append(turn.item);
  $("empty").hidden = true;
  $("question").value = "";
  turns.push(turn);
  return turn;
}

/** Ask for a turn's answer, and show it as it grows. */
async function ask(turn) {
  const began = performance.now();
  let reason = null;
  let usage = null;
  let first = null;
  const chosen = options();
  running = new AbortController();
  turn.text = "";
  const text = element("p", { class: "text" });
  turn.answer.replaceChildren(element("h2", { class: "unseen" }, "Answer"), text);
  turn.answer.setAttribute("aria-busy", "true");
  busy(true);
  try {
    turn.json = Boolean(chosen.response_format);
    text.classList.toggle("raw", turn.json);
    const stream = { stream: true, stream_options: { include_usage: true } };
    const body = { model: model.id || undefined, messages: messagesTo(turn), ...stream, ...chosen };
    const response = await call("v1/chat/completions", body, running.signal);
    for await (const event of events(response)) {
      if (event.error) throw new Problem(event.error.message);
      usage = event.usage ? event : usage;
      reason = event.choices?.[0]?.finish_reason ?? reason;
      const piece = event.choices?.[0]?.delta?.content;
      if (!piece) continue;
      first ??= (performance.now() - began) / 1000;
      turn.text += piece;
      text.append(piece);
    }
    finish(turn, text, reason, usage, { whole: (performance.now() - began) / 1000, first });
    say(usage ? `${number(usage.usage.completion_tokens)} tokens` : "Answered", $("status"));
  } catch (problem) {
    const stopped = problem.name === "AbortError";
    if (!stopped && !(problem instanceof Problem)) console.error(problem); // a mistake of this page
    say(stopped ? "Stopped" : "", $("status"));
    if (!turn.text) text.remove();
    turn.answer.append(element("p", { class: stopped ? "note" : "problem" }, stopped ? stoppedNote(turn) : problem.message));
  } finally {
    running = null;
    turn.answer.setAttribute("aria-busy", "false");
    turn.answer.append(retryOf(turn));
    busy(false);
  }
}

/** Ask, unless an answer is under way or the settings are wrong; then nothing has changed. */
function start(prepare) {
  try {
    options();
  } catch (problem) {
    say(problem.message);
    return;
  }
  if (running) return;
  say("");
  ask(prepare());
  following = true;
  toTheEnd();
}

function stoppedNote(turn) {
  return turn.text ? "Stopped here." : "Stopped before the first word, and left out of the conversation.";
}

function retryOf(turn) {
  const again = () => {
    $("question").focus(); // the button goes
    start(() => turn);
  };
  const retry = element("button", { type: "button", class: "retry", click: again }, "Retry");
  return element("div", { class: "buttons" }, retry);
}

/** What stands below a whole answer: its table, why it ended, and what it took. */
function finish(turn, text, reason, usage, took) {
  if (turn.json && reason !== "length") showTable(turn, text);
  if (!turn.text) turn.answer.append(element("p", { class: "note" }, "The answer is empty."));
  if (reason === "length") {
    const said = usage ? ` of ${number(usage.usage.completion_tokens)} tokens` : "";
    turn.answer.append(element("p", { class: "note" }, `Cut at the limit${said}. Allow more in the settings.`));
  }
  turn.answer.append(figures(usage?.usage, usage?.timings ?? {}, took));
}

function figures(usage, timings, took) {
  const list = element("dl", { class: "figures" });
  const line = (name, value) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  if (timings.image) line("pictures", seconds(timings.image));
  const first = timings.first_token ?? took.first;
  if (first !== null && first !== undefined) line("first token", seconds(first));
  line("in all", seconds(took.whole));
  if (usage) line("tokens", number(usage.completion_tokens));
  const speed = timings.tokens_per_second;
  if (speed) line("tokens per second", number(speed, speed < 100 ? 1 : 0));
  if (usage) {
    const of = model.positions ? ` of ${number(model.positions)}` : "";
    line("conversation", `${number(usage.prompt_tokens + usage.completion_tokens)}${of} tokens`);
  }
  return list;
}

// ---- Answers as tables

function showTable(turn, text) {
  let value;
  try {
    value = JSON.parse(turn.text);
  } catch {
    return; // it stays as text
  }
  if (value === null || typeof value !== "object") return;
  const raw = element("details", { class: "json" }, element("summary", {}, "JSON"), element("pre", {}, turn.text));
  text.replaceWith(element("div", { class: "table" }, tableOf(value)), raw);
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Objects are rows of names and values; lists of objects have a column for each name. */
function tableOf(value) {
  if (Array.isArray(value) && value.length && value.every(isObject)) {
    const names = [...new Set(value.flatMap(Object.keys))];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const rows = value.map((row) => element("tr", {}, ...names.map((name) => cell(row[name]))));
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  }
  const pairs = Array.isArray(value) ? value.map((one, at) => [at + 1, one]) : Object.entries(value);
  const rows = pairs.map(([name, one]) => element("tr", {}, element("th", { scope: "row" }, String(name)), cell(one)));
  return element("table", {}, element("tbody", {}, ...rows));
}

function cell(value) {
  if (typeof value === "number") return element("td", { class: "number" }, String(value));
  if (value === null || value === undefined) return element("td", {}, "–");
  if (typeof value === "boolean") return element("td", {}, value ? "yes" : "no");
  if (typeof value !== "object") return element("td", {}, value);
  const plain = Array.isArray(value) && !value.some((one) => one !== null && typeof one === "object");
  return element("td", {}, plain ? value.join(", ") || "–" : tableOf(value));
}

// ---- The form

/** Whether the page stays at its end as it grows: until its reader scrolls up, or opens something. */
let following = false;
let scrolled = 0;

function toTheEnd() {
  if (following) document.documentElement.scrollTop = document.documentElement.scrollHeight;
}

document.addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = document.documentElement;
  const near = scrollHeight - clientHeight - scrollTop < NEAR_THE_END;
  following = near || (following && scrollTop >= scrolled);
  scrolled = scrollTop;
});
$("turns").addEventListener("click", () => (following = false), { capture: true });
new ResizeObserver(toTheEnd).observe($("conversation"));

function busy(now) {
  const focused = document.activeElement;
  $("send").hidden = now;
  $("stop").hidden = !now;
  if (focused === $("send") || focused === $("stop")) $(now ? "stop" : "send").focus();
  if (now) say("Answering…", $("status"));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  const question = $("question").value.trim();
  if (!question) {
    say(pictures.length ? "Write what you want to know about the picture." : "There is nothing to ask yet. Write a question.");
    $("question").focus();
    return;
  }
  start(() => begin(question));
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !$("key-dialog").open) running.abort();
});
$("new").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  $("turns").replaceChildren();
  $("empty").hidden = false;
  say("");
  say("", $("status"));
  $("question").focus();
});

$("settings").open = matchMedia("(min-width: 56.01rem)").matches;
lookAtModel();
$("question").focus();
