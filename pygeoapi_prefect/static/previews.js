// Previews of outputs, by media type. Whatever an output holds, it is shown as text, as an image,
// or as shapes on a map, and never as markup.

import { apiRoot, h, humanSize, map as mapSettings, request, t } from "./common.js";

const TEXT_MAX_BYTES = 100_000;
const MAP_MAX_BYTES = 5_000_000;
const IMAGE_MAX_BYTES = 20_000_000;
const TABLE_MAX_ROWS = 10;
const POPUP_MAX_MEMBERS = 30;
const SIGNIFICANT_DIGITS = 6;
const LONG_TEXT_CHARACTERS = 30;
const MAX_DIGITS = 15; // those that a number surely has

/**
 * Show a preview of an output.
 *
 * @param container where it is shown, instead of what is there
 * @param source {title, mediaType, size, and what has the content: url, or blob}
 */
export async function preview(container, source) {
  const mediaType = source.mediaType.split(";")[0].trim().toLowerCase();
  container.replaceChildren();
  try {
    const shown = await previewOf(mediaType, source);
    container.replaceChildren(...shown);
    for (const element of shown) element.dispatchEvent(new Event("shown"));
  } catch (error) {
    container.replaceChildren(
      note(t("The preview cannot be shown: {reason}", { reason: error.message })),
    );
  }
}

/** Show previews of all outputs of the page. */
export function previewAll(root) {
  for (const card of root.querySelectorAll("[data-output]")) {
    const { title, mediaType, size, href } = card.dataset;
    const url = new URL(href, window.location.href);
    preview(card.querySelector("[data-preview]"), { title, mediaType, size: Number(size), url });
  }
}

function previewOf(mediaType, source) {
  if (source.size === 0) return [note(t("Empty"))];
  if (/^image\/(png|jpeg|gif|webp|avif|bmp|svg\+xml)$/.test(mediaType)) return image(source);
  if (/[/+](geo\+)?json$/.test(mediaType)) return json(source);
  if (mediaType === "text/csv") return table(source);
  if (mediaType.startsWith("text/") || /[/+](xml|yaml|javascript)$/.test(mediaType)) {
    return text(source);
  }
  return [note(t("No preview for this media type."))];
}

function note(message) {
  return h("p", { class: "text-muted small mb-0" }, message);
}

async function beginning(source, bytes) {
  if (source.blob) return source.blob.slice(0, bytes).text();
  const headers = source.size > bytes ? { Range: `bytes=0-${bytes - 1}` } : {};
  const response = await request(source.url, { headers: { Accept: "*/*", ...headers } });
  return response.text();
}

function pre(content) {
  return h("pre", { class: "data mb-0", tabindex: "0" }, content);
}

function cutNote(source) {
  if (source.size <= TEXT_MAX_BYTES) return [];
  const sizes = { size: humanSize(TEXT_MAX_BYTES), total: humanSize(source.size) };
  return [note(t("The first {size} of {total}", sizes))];
}

async function image(source) {
  if (source.size > IMAGE_MAX_BYTES) return [note(t("Too large for a preview."))];
  const address = source.blob ? URL.createObjectURL(source.blob) : source.url;
  return [h("img", { src: address, alt: source.title, class: "preview-image" })];
}

async function text(source) {
  return [pre(await beginning(source, TEXT_MAX_BYTES)), ...cutNote(source)];
}

async function json(source) {
  if (source.size > MAP_MAX_BYTES) return text(source);
  const raw = await beginning(source, MAP_MAX_BYTES);
  let value;
  try {
    value = JSON.parse(raw);
  } catch {
    return [pre(raw.slice(0, TEXT_MAX_BYTES))];
  }
  const pretty = JSON.stringify(value, null, 2);
  const shown = [pre(pretty.slice(0, TEXT_MAX_BYTES)), ...cutNote({ size: pretty.length })];
  const shapes = asGeoJson(value);
  if (shapes === null) return shown;
  return [
    ...(await mapOf(shapes, source.title)),
    h("details", { class: "mt-2" }, h("summary", {}, t("Show as text")), ...shown),
  ];
}

const GEOMETRIES = /^(Point|MultiPoint|LineString|MultiLineString|Polygon|MultiPolygon|GeometryCollection)$/;

/** GeoJSON in longitude and latitude, or null. */
function asGeoJson(value) {
  if (value === null || typeof value !== "object") return null;
  if (value.type === "FeatureCollection" && Array.isArray(value.features)) return value;
  if (value.type === "Feature" || GEOMETRIES.test(value.type ?? "")) return value;
  return bboxPolygon(value);
}

function bboxPolygon({ bbox, crs }) {
  if (!Array.isArray(bbox) || bbox.length !== 4 || !bbox.every(Number.isFinite)) return null;
  if (crs !== undefined && !/CRS84$/.test(crs)) return null;
  const [west, south, east, north] = bbox;
  const [left, right] = east < west ? [west, east + 360] : [west, east];
  const ring = [[left, south], [right, south], [right, north], [left, north], [left, south]];
  return { type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: [ring] } };
}

let leaflet = null;

function loadLeaflet() {
  leaflet ??= new Promise((resolve, reject) => {
    const folder = new URL("pygeoapi-prefect/vendor/leaflet-1.9.4/", apiRoot);
    document.head.append(
      h("link", { rel: "stylesheet", href: new URL("leaflet.css", folder) }),
      h("script", {
        src: new URL("leaflet.js", folder),
        onload: () => resolve(window.L),
        onerror: () => reject(new Error("leaflet.js")),
      }),
    );
  });
  return leaflet;
}

async function mapOf(shapes, title) {
  const L = await loadLeaflet();
  const element = h("div", {
    class: "preview-map",
    role: "application",
    "aria-label": t("Map of {title}", { title }),
  });
  const layer = L.geoJSON(shapes, {
    style: { color: "#0b5ed7", weight: 2, fillOpacity: 0.2 },
    pointToLayer: (_, position) => L.circleMarker(position, { radius: 6 }),
    onEachFeature: (feature, shape) => shape.bindPopup(() => properties(feature)),
  });
  element.addEventListener("shown", () => {
    const drawn = L.map(element, { scrollWheelZoom: false });
    if (mapSettings.url) {
      L.tileLayer(mapSettings.url, { attribution: mapSettings.attribution, maxZoom: 19 }).addTo(drawn);
    }
    layer.addTo(drawn);
    const bounds = layer.getBounds();
    if (bounds.isValid()) drawn.fitBounds(bounds, { padding: [20, 20], maxZoom: 14 });
    else drawn.setView([0, 0], 1);
  });
  const count = shapes.features?.length;
  return count === undefined ? [element] : [element, note(t("Features: {n}", { n: count }))];
}

function properties(feature) {
  const members = Object.entries(feature.properties ?? {}).slice(0, POPUP_MAX_MEMBERS);
  const list = h("dl", { class: "popup" });
  for (const [name, value] of members) {
    const shown = typeof value === "object" ? JSON.stringify(value) : String(value);
    list.append(h("dt", {}, name), h("dd", {}, shown.slice(0, 300)));
  }
  return list;
}

async function table(source) {
  const raw = await beginning(source, TEXT_MAX_BYTES);
  const rows = csvRows(raw);
  if (source.size > TEXT_MAX_BYTES) rows.pop(); // cut off in the middle
  const [head = [], ...body] = rows;
  const first = body.slice(0, TABLE_MAX_ROWS);
  const numeric = head.map((_, column) => isNumeric(first, column));
  const shown = h(
    "div",
    { class: "table-responsive", tabindex: "0", role: "group", "aria-label": source.title },
    h(
      "table",
      { class: "table table-sm table-striped mb-0" },
      h("caption", { class: "visually-hidden" }, source.title),
      h("thead", {}, h("tr", {}, ...head.map((cell, i) => h("th", { scope: "col", class: cellClass(cell, numeric[i]) }, cell)))),
      h("tbody", {}, ...first.map((row) => h("tr", {}, ...row.map((cell, i) => tableCell(cell, numeric[i]))))),
    ),
  );
  const isAll = body.length === first.length && source.size <= TEXT_MAX_BYTES;
  return [shown, note(isAll ? t("Rows: {n}", { n: first.length }) : t("First {n} rows", { n: first.length }))];
}

const NUMBER = /^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$/i;

/** Whether a column has numbers, and nothing else but gaps. */
function isNumeric(rows, column) {
  const cells = rows.map((row) => row[column] ?? "").filter((cell) => cell.trim() !== "");
  return cells.length > 0 && cells.every((cell) => NUMBER.test(cell));
}

function cellClass(cell, isNumber) {
  if (isNumber) return "number-cell";
  return cell.length > LONG_TEXT_CHARACTERS ? "long-cell" : null;
}

function tableCell(cell, isNumber) {
  const shown = isNumber ? shortNumber(cell) : cell;
  return h("td", { class: cellClass(cell, isNumber), title: shown === cell ? null : cell }, shown);
}

/** A number with the digits that a reader compares: all before the point, some after it. */
function shortNumber(text) {
  if (!/[.e]/i.test(text)) return text; // counts and ids
  const value = Number(text);
  const whole = Math.trunc(Math.abs(value)).toString().length;
  const digits = Math.max(SIGNIFICANT_DIGITS, whole + 2);
  const given = text.replace(/e.*/i, "").replace(/\D/g, "").length;
  if (!Number.isFinite(value) || digits > MAX_DIGITS || given <= digits) return text;
  return String(Number(value.toPrecision(digits)));
}

/** Rows of CSV (RFC 4180). */
function csvRows(content) {
  const rows = [];
  let row = [];
  let cell = "";
  let isQuoted = false;
  const endRow = () => {
    row.push(cell);
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
    cell = "";
  };
  for (let i = 0; i < content.length; i += 1) {
    const character = content[i];
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (content[i + 1] === '"') {
        cell += '"';
        i += 1;
      } else isQuoted = false;
    } else if (character === '"' && cell === "") isQuoted = true;
    else if (character === ",") {
      row.push(cell);
      cell = "";
    } else if (character === "\n") endRow();
    else if (character !== "\r") cell += character;
  }
  endRow();
  return rows;
}
