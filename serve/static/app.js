"use strict";
// The page of the service. What users and models wrote goes in through textContent only.

let rowsOfARequest = 64;
const RETRIES = 3;
const byId = (id) => document.getElementById(id);
let models = [];

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, isBad = false) {
  byId("status").textContent = text;
  byId("status").className = isBad ? "bad" : "";
}

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (byId("key").value) headers.Authorization = `Bearer ${byId("key").value}`;
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) };
  for (let attempt = 0; ; attempt += 1) {
    const answer = await fetch(path, options).catch(() => {
      throw new Error("the service cannot be reached: see that it runs, then try again");
    });
    if (answer.ok) return answer.json();
    if (answer.status === 503 && attempt < RETRIES) {
      await pause(Number(answer.headers.get("Retry-After")) || 1);
      continue;
    }
    if (answer.status === 401) {
      byId("key-form").hidden = false;
      throw new Error(byId("key").value
        ? "the service does not take this API key: type another one above"
        : "the service asks for an API key: type it into the field above");
    }
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || `${answer.status} ${answer.statusText}`);
  }
}

function chosen() {
  return models.find((model) => model.name === byId("model").value);
}

// What was chosen stays so where it is still there.
function fill(select, values) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => new Option(value, value)));
  if (values.includes(before)) select.value = before;
}

// For those who have texts read to them.
function nameLanguage() {
  byId("texts").lang = byId("language").value;
}

function showModel() {
  const model = chosen();
  if (!model) return;
  fill(byId("language"), [...new Set([model.target_language, model.source_language])]);
  nameLanguage();
  byId("texts-label").textContent = model.inputs === "pair"
    ? "Pairs, one per line: premise, a tab or |, hypothesis"
    : "Sentences, one per line";
  byId("card-name").textContent = model.name;
  const facts = [
    ["version", model.version],
    ["published", model.published_at],
    ["languages", `${model.source_language} (labels), ${model.target_language}`],
    ["labels", model.labels.join(", ")],
    ["longest input", `${model.max_tokens} tokens`],
    ["precision", model.precision],
  ];
  if (model.canary_version) {
    facts.push(["canary", `${model.canary_version}, ${Math.round(model.canary_share * 100)} %`]);
  }
  for (const refused of model.refused) facts.push([`refused ${refused.version}`, refused.reason]);
  byId("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  byId("metrics").hidden = !model.metrics.length;
  byId("metrics").tBodies[0].replaceChildren(...model.metrics.map(metricRow));
  byId("card").hidden = false;
}

function metricRow(metric) {
  const row = element("tr");
  for (const key of ["method", "aligner", "language", "split", "metric", "value"]) {
    const value = metric[key];
    row.append(element("td", typeof value === "number" ? value.toFixed(3) : value ?? ""));
  }
  return row;
}

const linesOf = (text) => text.split("\n").filter((line) => line.trim());

function inputsOf(text, isPair) {
  const lines = linesOf(text);
  if (!isPair) return lines;
  return lines.map((line, place) => {
    // A text may hold |, and a file's rows come with a tab.
    const parts = line.split(line.includes("\t") ? "\t" : "|");
    if (parts.length !== 2) {
      throw new Error(`line ${place + 1}: put one tab, or a single |, between its two texts`);
    }
    const [premise, hypothesis] = parts.map((part) => part.trim());
    return { premise, hypothesis };
  });
}

// RFC 4180: quoted fields may hold commas, quotes (doubled) and line breaks; a quote inside a field
// that does not begin with one is a sign like any other.
function parseCsv(text) {
  const rows = [[""]];
  let quoted = false;
  for (let place = 0; place < text.length; place += 1) {
    const sign = text[place];
    const row = rows[rows.length - 1];
    if (quoted && sign === '"' && text[place + 1] === '"') {
      row[row.length - 1] += '"';
      place += 1;
    } else if (sign === '"' && (quoted || !row[row.length - 1])) {
      quoted = !quoted;
    } else if (sign === "," && !quoted) {
      row.push("");
    } else if (sign === "\n" && !quoted) {
      rows.push([""]);
    } else {
      row[row.length - 1] += sign;
    }
  }
  if (quoted) throw new Error(`row ${rows.length}: a quote opens here and never closes`);
  // Numbered as a spreadsheet does it, before blank rows go.
  return rows.map((fields, place) => ({ fields, number: place + 1 }))
    .filter((row) => row.fields.some((field) => field.trim()));
}

// The wanted columns of a CSV file as lines, with a tab between two, and which they were; rows without
// a text are left out.
function linesOfCsv(text, wanted) {
  const rows = parseCsv(text);
  const first = rows[0]?.fields ?? [];
  const heads = first.map((field) => field.trim().toLowerCase());
  const named = wanted.every((name) => heads.includes(name));
  const names = wanted.join(" and ");
  const remedy = "put texts that hold a comma in quotes";
  if (!named && heads.length === 1 && /[;\t]/.test(heads[0])) {
    throw new Error("the first row holds a semicolon or a tab: save the file with commas between its "
      + `columns, or, if it has one column, name it ${names} in the first row`);
  }
  if (rows.length && !named && heads.length !== wanted.length) {
    throw new Error(`the first row does not say which of ${heads.length} columns to read: `
      + `name ${names} there, or ${remedy}`);
  }
  const odd = rows.find((row) => row.fields.length !== heads.length);
  if (odd) {
    throw new Error(`columns of row ${odd.number}: ${odd.fields.length}, of the first ${heads.length}; ${remedy}`);
  }
  const places = wanted.map((name, place) => (named ? heads.indexOf(name) : place));
  const lines = rows.slice(named ? 1 : 0)
    .map((row) => places.map((place) => row.fields[place].replace(/\s+/g, " ")).join("\t"))
    .filter((line) => line.trim());
  return { lines, told: named ? `columns: ${names}` : "the first row too, as it names no column" };
}

// Without the mark that Excel puts before UTF-8, and with \n as the only end of a line.
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replace(/\r\n?/g, "\n");
  } catch {
    throw new Error("it is not UTF-8: save it as UTF-8");
  }
}

async function readFile() {
  const file = byId("file").files[0];
  if (!file) return;
  // To a browser, choosing the same file again once it is mended is else no change.
  byId("file").value = "";
  const wanted = chosen()?.inputs === "pair" ? ["premise", "hypothesis"] : ["text"];
  try {
    const text = decoded(await file.arrayBuffer());
    const { lines, told } = /\.csv$/i.test(file.name)
      ? linesOfCsv(text, wanted) : { lines: linesOf(text), told: "line by line" };
    if (!lines.length) throw new Error("there is no text in it");
    byId("texts").value = lines.join("\n");
    say(`${lines.length} rows of ${file.name}, ${told}`);
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

function answerItem(input, prediction, language) {
  const item = element("li");
  const text = element("div", typeof input === "string" ? input : `${input.premise} | ${input.hypothesis}`);
  text.dir = "auto";
  text.lang = language;
  item.append(text);
  for (const [label, probability] of Object.entries(prediction.probabilities)) {
    const bar = barOf(label, probability);
    if (label === prediction.label) bar.classList.add("best");
    item.append(bar);
    if (prediction.unaligned) {
      const bare = barOf("without aligner", prediction.unaligned[label]);
      bare.classList.add("bare");
      item.append(bare);
    }
  }
  return item;
}

function barOf(name, probability) {
  const bar = element("div");
  bar.className = "bar";
  const progress = element("progress");
  progress.max = 1;
  progress.value = probability;
  progress.setAttribute("aria-label", name);
  bar.append(element("span", name), progress, element("span", `${(probability * 100).toFixed(1)} %`));
  return bar;
}

async function classify(event) {
  event.preventDefault();
  // Not `disabled`, which would take the focus from who presses it.
  if (byId("send").ariaDisabled === "true") return;
  byId("send").ariaDisabled = "true";
  byId("list").replaceChildren();
  try {
    const model = chosen();
    if (!model) return await start();
    const inputs = inputsOf(byId("texts").value, model.inputs === "pair");
    const language = byId("language").value;
    const compare = byId("compare").checked;
    const began = performance.now();
    for (let done = 0; done < inputs.length; done += rowsOfARequest) {
      const part = inputs.slice(done, done + rowsOfARequest);
      say(`${done} of ${inputs.length}`);
      const answer = await call("v1/classify", { model: model.name, language, inputs: part, compare });
      byId("list").append(
        ...part.map((input, place) => answerItem(input, answer.predictions[place], language)));
      byId("answers").hidden = false;
    }
    say(`${inputs.length} answered in ${Math.round(performance.now() - began)} ms`);
  } catch (error) {
    say(error.message, true);
  } finally {
    byId("send").ariaDisabled = "false";
  }
}

async function start() {
  try {
    ({ models } = await call("v1/models"));
    const { schemas } = (await call("openapi.json")).components;
    rowsOfARequest = Math.min(rowsOfARequest, schemas.ClassifyRequest.properties.inputs.maxItems);
    fill(byId("model"), models.map((model) => model.name));
    showModel();
    say(`models: ${models.length}`);
  } catch (error) {
    say(error.message, true);
  }
}

byId("ask").addEventListener("submit", classify);
byId("model").addEventListener("change", showModel);
byId("language").addEventListener("change", nameLanguage);
byId("file").addEventListener("change", readFile);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
start();
