"use strict";
// Draws openapi.json; text only goes in through textContent.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum || schema.const) return JSON.stringify(schema.enum || schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) {
    return `object of ${typeOf(schema.additionalProperties)}`;
  }
  return schema.type || "any";
}

function table(heads, rows) {
  const head = element("tr", "", ...heads.map((text) => element("th", text)));
  const body = rows.map((cells) => element("tr", "", ...cells.map((text) => element("td", text))));
  const wrap = element("div", "", element("table", "", element("thead", "", head),
    element("tbody", "", ...body)));
  wrap.className = "wide";
  return wrap;
}

function drawOperation(path, method, operation) {
  const section = element("section", "",
    element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.summary || ""));
  if (operation.security) section.append(element("p", "Needs the header Authorization: Bearer KEY"));
  const body = operation.requestBody;
  if (body) {
    section.append(element("p", `Body: ${typeOf(Object.values(body.content)[0].schema)}`));
  }
  const rows = Object.entries(operation.responses).map(([status, answer]) => {
    const content = Object.values(answer.content || {})[0];
    return [status, answer.description, content ? typeOf(content.schema) : ""];
  });
  section.append(table(["status", "meaning", "body"], rows));
  return section;
}

function drawSchema(name, schema) {
  const required = schema.required || [];
  const rows = Object.entries(schema.properties || {}).map(([key, value]) =>
    [key, typeOf(value), required.includes(key) ? "yes" : "no", value.description || ""]);
  return element("section", "", element("h3", name), element("p", schema.description || ""),
    table(["key", "type", "required", "meaning"], rows));
}

async function draw() {
  const answer = await fetch("openapi.json");
  const api = await answer.json();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      document.getElementById("paths").append(drawOperation(path, method, operation));
    }
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    document.getElementById("schemas").append(drawSchema(name, schema));
  }
}

draw();
