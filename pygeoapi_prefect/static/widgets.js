// Form controls for inputs of a process, made from their JSON schema.
//
// A widget is {element, control, read, write}: `read` returns a value, or undefined where nothing
// was entered, and throws `FieldError`; `write` shows a value; `control` is the one element that a
// label belongs to, or null where there are several. What may be large, and comes from files, is
// in `contents()`: [{size, ready}], where `ready` waits until a file has been read, and throws
// `FieldError` where that failed. A file that fails tells its field with the event `fault`.

import { h, humanSize, newId, t } from "./common.js";

export const CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84";

/** What is wrong with what was entered, and where. */
export class FieldError extends Error {
  constructor(message, element) {
    super(message);
    this.element = element;
  }
}

/** The widget for values of a schema. `name` is what its controls are called. */
export function makeWidget(schema, name) {
  return { contents: () => [], ...widgetOf(merged(schema), name) };
}

function widgetOf(whole, name) {
  switch (kindOf(whole)) {
    case "bbox":
      return bboxWidget(name);
    case "choice":
      return choiceWidget(branchesOf(whole), name);
    case "binary":
      return sourceWidget(binaryWidget([whole], name), mediaTypeOf(whole), name);
    case "binaries":
      return sourceWidget(binaryWidget(branchesOf(whole), name), null, name);
    case "enum":
      return enumWidget(whole.enum, name);
    case "boolean":
      return enumWidget([true, false], name, [t("yes"), t("no")]);
    case "number":
      return numberWidget(whole, name);
    case "list":
      return listWidget(whole.items ?? {}, name, whole.minItems ?? 0, whole.maxItems ?? Infinity);
    case "document":
      return sourceWidget(documentWidget(whole, name), mediaTypeOf(whole), name);
    case "string":
      return textWidget(whole, name);
    default:
      return sourceWidget(jsonWidget(whole, name), mediaTypeOf(whole), name);
  }
}

/** A schema and all that it must also be, as one. */
function merged(schema) {
  const { allOf = [], ...own } = schema ?? {};
  return allOf.map(merged).reduce((sum, part) => ({ ...part, ...sum }), own);
}

const SCALAR_KINDS = ["string", "number", "boolean", "enum"];

function kindOf(schema) {
  if (isBbox(schema)) return "bbox";
  const branches = branchesOf(schema);
  if (branches.length > 1) return branches.every(isBinary) ? "binaries" : "choice";
  if (schema.enum) return "enum";
  if (isBinary(schema)) return "binary";
  switch (typeOf(schema)) {
    case "boolean":
      return "boolean";
    case "integer":
    case "number":
      return "number";
    case "string":
      return schema.contentMediaType ? "document" : "string";
    case "array":
      return SCALAR_KINDS.includes(kindOf(merged(schema.items))) ? "list" : "json";
    default:
      return "json";
  }
}

function typeOf(schema) {
  if (schema.type) return schema.type;
  if (schema.properties || schema.required) return "object";
  return undefined;
}

function isBbox(schema) {
  return /(^|\/)ogc-bbox$/.test(schema.format ?? "");
}

function isBinary(schema) {
  if (typeOf(schema) !== "string") return false;
  return (
    ["byte", "binary"].includes(schema.format) ||
    ["base64", "binary"].includes(schema.contentEncoding)
  );
}

function mediaTypeOf(schema) {
  if (schema.contentMediaType) return schema.contentMediaType;
  if (isGeoJson(schema)) return "application/geo+json";
  return isBinary(schema) ? null : "application/json";
}

function isGeoJson(schema) {
  const named = `${schema.format ?? ""} ${schema.$ref ?? ""} ${schema.contentMediaType ?? ""}`;
  return /geo\+?json/i.test(named);
}

/** The schemas of which a value fits one; of JSON as an object and as text, only the object. */
function branchesOf(schema) {
  const { oneOf, anyOf, ...rest } = schema;
  const branches = (oneOf ?? anyOf ?? []).map((branch) => merged({ ...rest, allOf: [branch] }));
  const isJsonText = (branch) =>
    typeOf(branch) === "string" && /[/+]json/.test(branch.contentMediaType ?? "");
  const hasJson = branches.some((branch) => !isJsonText(branch) && typeOf(branch) === "object");
  const kept = branches.filter((branch) => !(hasJson && isJsonText(branch)));
  return kept.length ? kept : [schema];
}

// One control

function textWidget(schema, name) {
  const type = { date: "date", email: "email", uri: "url" }[schema.format] ?? "text";
  const isLong = (schema.maxLength ?? 0) > 200;
  const control = isLong
    ? h("textarea", { class: "form-control", rows: 4 })
    : h("input", { class: "form-control", type });
  control.id = newId("text");
  control.setAttribute("aria-label", name);
  if (schema.format && type === "text") control.placeholder = schema.format;
  if (schema.pattern) control.title = schema.pattern;
  return {
    element: control,
    control,
    read: () => (control.value === "" ? undefined : control.value),
    write: (value) => {
      control.value = String(value ?? "");
    },
  };
}

function numberWidget(schema, name) {
  const isInteger = typeOf(schema) === "integer";
  const control = h("input", {
    class: "form-control number",
    type: "text",
    inputmode: isInteger ? "numeric" : "decimal",
    id: newId("number"),
    "aria-label": name,
    autocomplete: "off",
  });
  const bounds = boundsText(schema);
  if (bounds) control.placeholder = bounds;
  return {
    element: control,
    control,
    read: () => {
      const text = control.value.trim();
      if (text === "") return undefined;
      const value = Number(text);
      if (!Number.isFinite(value)) throw new FieldError(t("This must be a number."), control);
      if (isInteger && !Number.isInteger(value)) {
        throw new FieldError(t("This must be a whole number."), control);
      }
      const { minimum = -Infinity, maximum = Infinity } = schema;
      if (value < minimum) throw new FieldError(t("This must be {minimum} or more.", { minimum }), control);
      if (value > maximum) throw new FieldError(t("This must be {maximum} or less.", { maximum }), control);
      return value;
    },
    write: (value) => {
      control.value = String(value ?? "");
    },
  };
}

function boundsText({ minimum, maximum }) {
  if (minimum !== undefined && maximum !== undefined) return `${minimum} – ${maximum}`;
  if (minimum !== undefined) return `≥ ${minimum}`;
  return maximum === undefined ? "" : `≤ ${maximum}`;
}

function enumWidget(values, name, labels = values) {
  const control = h(
    "select",
    { class: "form-select", id: newId("choice"), "aria-label": name },
    h("option", { value: "" }, t("Not set")),
    ...values.map((value, i) =>
      h("option", { value: i }, typeof labels[i] === "string" ? labels[i] : JSON.stringify(value)),
    ),
  );
  return {
    element: control,
    control,
    read: () => (control.value === "" ? undefined : values[Number(control.value)]),
    write: (value) => {
      const index = values.findIndex((one) => JSON.stringify(one) === JSON.stringify(value));
      control.value = index < 0 ? "" : String(index);
    },
  };
}

// Documents

/**
 * A file to choose: {control, remove, note, ready, reset, tell}.
 *
 * `read` makes content of a file, which takes a while; `show` takes it, or undefined where there
 * is none any more. `tell` says where else content came from, and lets it be removed too.
 */
function fileLoader(name, accept, read, show) {
  const control = h("input", {
    type: "file",
    class: "form-control form-control-sm",
    id: newId("file"),
    accept,
    "aria-label": `${name}: ${t("Load from a file")}`,
  });
  const remove = h(
    "button",
    {
      type: "button",
      class: "btn btn-sm btn-outline-secondary",
      "aria-label": t("Remove {title}", { title: `${name}: ${t("File")}` }),
      hidden: true,
    },
    t("Remove"),
  );
  const note = h("p", { class: "form-text mb-0", role: "status" });
  let chosen = null;
  let reading = Promise.resolve();
  let failure = null;

  const tell = (text) => {
    note.textContent = text;
    remove.hidden = false;
  };
  const forget = () => {
    chosen = null;
    failure = null;
    note.textContent = "";
    remove.hidden = true;
  };
  const changed = () => control.dispatchEvent(new Event("input", { bubbles: true }));

  const load = async (file) => {
    tell(t("Reading {name} …", { name: file.name }));
    try {
      const content = await read(file);
      if (chosen !== file) return; // it was removed, or another one chosen
      show(content, file);
      tell(t("{name}, {size} loaded", { name: file.name, size: humanSize(file.size) }));
      changed();
    } catch (error) {
      if (chosen !== file) return;
      const values = { name: file.name, reason: error.message };
      failure = new FieldError(t("{name} cannot be read: {reason}", values), control);
      tell("");
      control.dispatchEvent(new CustomEvent("fault", { bubbles: true, detail: failure }));
    }
  };

  control.addEventListener("change", () => {
    forget();
    show(undefined);
    chosen = control.files[0] ?? null;
    if (chosen) reading = load(chosen);
    changed();
  });
  const reset = () => {
    forget();
    control.value = "";
  };
  remove.addEventListener("click", () => {
    reset();
    show(undefined);
    changed();
    control.focus();
  });
  const ready = async () => {
    for (let seen = null; seen !== reading; ) {
      seen = reading;
      await seen;
    }
    if (failure) throw failure;
  };
  return { control, remove, note, ready, reset, tell };
}

function textArea(name) {
  return h("textarea", {
    class: "form-control code",
    rows: 5,
    spellcheck: "false",
    id: newId("text"),
    "aria-label": name,
  });
}

/** A text area and a loader for it; the parts that all widgets with one have. */
function textSource(area, name, accept) {
  const read = (file) => file.text();
  const loader = fileLoader(name, accept, read, (text = "") => {
    area.value = text;
  });
  area.addEventListener("input", loader.reset); // what is written now is no file's
  const label = h("label", { class: "form-text", for: loader.control.id }, t("Load from a file"));
  const row = h("div", { class: "loader" }, label, loader.control, loader.remove);
  return {
    element: h("div", {}, area, row, loader.note),
    control: area,
    contents: () => [{ size: area.value.length, ready: loader.ready }],
    show: (text) => {
      loader.reset();
      area.value = text;
    },
  };
}

function jsonWidget(schema, name) {
  const area = textArea(name);
  area.placeholder = isGeoJson(schema) ? t("GeoJSON") : t("JSON");
  const { show, ...parts } = textSource(area, name, ".json,.geojson,application/json");
  return {
    ...parts,
    read: () => {
      if (area.value.trim() === "") return undefined;
      let value;
      try {
        value = JSON.parse(area.value);
      } catch (error) {
        throw new FieldError(t("This is no JSON: {reason}", { reason: error.message }), area);
      }
      const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
      if (typeOf(schema) === "object" && !isObject) {
        throw new FieldError(t("This must be a JSON object."), area);
      }
      // an object that has members of a qualified value must not be taken for one
      return isObject && ("value" in value || "href" in value) ? { value } : value;
    },
    write: (value) => {
      const inline = isQualified(value) ? value.value : value;
      show(inline === undefined ? "" : JSON.stringify(inline, null, 2));
    },
  };
}

function documentWidget(schema, name) {
  const area = textArea(name);
  area.placeholder = schema.contentMediaType;
  const { show, ...parts } = textSource(area, name);
  return {
    ...parts,
    read: () => (area.value === "" ? undefined : area.value),
    write: (value) => show(String((isQualified(value) ? value.value : value) ?? "")),
  };
}

const MEDIA_TYPES_OF_NAMES = [
  [/\.(geo)?tiff?$/i, /tiff/],
  [/\.(grib2?|grb2?)$/i, /grib/i],
  [/\.(nc|cdf)$/i, /netcdf/],
  [/\.jp2$/i, /jp2/],
  [/\.png$/i, /png/],
  [/\.jpe?g$/i, /jpeg/],
  [/\.zip$/i, /zip/],
];

function binaryWidget(branches, name) {
  const mediaTypes = branches.map(mediaTypeOf).filter(Boolean);
  let held; // base64, from a file or an example
  const select = h(
    "select",
    { class: "form-select form-select-sm", id: newId("media-type") },
    ...mediaTypes.map((type) => h("option", { value: type }, type)),
  );
  const loader = fileLoader(name, undefined, base64, (content, file) => {
    held = content;
    if (file) select.value = mediaTypeOfFile(file, mediaTypes) ?? select.value;
  });
  const row = h("div", { class: "loader" }, loader.control, loader.remove);
  const element = h("div", {}, row, loader.note);
  if (mediaTypes.length > 1) {
    const label = h("label", { class: "form-text", for: select.id }, t("Media type"));
    element.append(h("div", { class: "loader" }, label, select));
  }
  return {
    element,
    control: loader.control,
    contents: () => [{ size: held?.length ?? 0, ready: loader.ready }],
    read: () => {
      if (held === undefined) return undefined;
      const format = mediaTypes.length ? { mediaType: select.value } : {};
      return { value: held, ...format, encoding: "base64" };
    },
    write: (value) => {
      held = isQualified(value) ? value.value : value;
      if (isQualified(value) && mediaTypes.includes(value.mediaType)) select.value = value.mediaType;
      loader.reset();
      if (held === undefined) return;
      const size = humanSize(Math.floor((held.length * 3) / 4));
      loader.tell(t("{size} from the example", { size }));
    },
  };
}

function mediaTypeOfFile(file, mediaTypes) {
  const known = mediaTypes.find((type) => type === file.type);
  if (known) return known;
  const [, pattern] = MEDIA_TYPES_OF_NAMES.find(([ending]) => ending.test(file.name)) ?? [];
  return pattern && mediaTypes.find((type) => pattern.test(type));
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function isQualified(value) {
  return value !== null && typeof value === "object" && "value" in value && !Array.isArray(value);
}

function isLink(value) {
  return value !== null && typeof value === "object" && typeof value.href === "string";
}

// Several controls

/** A value given here, or the address where the server finds it. */
function sourceWidget(inline, mediaType, name) {
  const group = newId("source");
  const address = h("input", {
    type: "url",
    class: "form-control",
    id: newId("address"),
    placeholder: "https://",
    "aria-label": `${name}: ${t("Address (URL)")}`,
  });
  const [here, elsewhere] = [t("Value"), t("Address (URL)")].map((text, i) => {
    const radio = h("input", {
      type: "radio",
      class: "btn-check",
      name: group,
      id: newId("source"),
      autocomplete: "off",
    });
    radio.checked = i === 0;
    return { radio, label: h("label", { class: "btn btn-sm btn-outline-secondary", for: radio.id }, text) };
  });
  const show = () => {
    inline.element.hidden = elsewhere.radio.checked;
    address.hidden = here.radio.checked;
  };
  const element = h(
    "div",
    {},
    h(
      "div",
      { class: "btn-group mb-2", role: "group", "aria-label": `${name}: ${t("Given as")}` },
      here.radio,
      here.label,
      elsewhere.radio,
      elsewhere.label,
    ),
    inline.element,
    address,
  );
  element.addEventListener("change", show);
  show();
  return {
    element,
    control: inline.control,
    contents: () => (here.radio.checked ? inline.contents() : []),
    read: () => {
      if (here.radio.checked) return inline.read();
      const href = address.value.trim();
      if (href === "") return undefined;
      if (!/^https?:\/\/./.test(href)) {
        throw new FieldError(t("This must be an address that starts with http:// or https://."), address);
      }
      return mediaType ? { href, type: mediaType } : { href };
    },
    write: (value) => {
      elsewhere.radio.checked = isLink(value);
      here.radio.checked = !isLink(value);
      if (isLink(value)) address.value = value.href;
      else inline.write(value);
      show();
    },
  };
}

function bboxWidget(name) {
  const sides = ["west", "south", "east", "north"].map((side) => {
    const control = h("input", {
      class: "form-control",
      type: "text",
      inputmode: "decimal",
      id: newId("bbox"),
      autocomplete: "off",
    });
    const label = h("label", { class: "form-text", for: control.id }, t(side));
    return { control, element: h("div", { class: "bbox-side" }, label, control) };
  });
  const crs = h("input", { class: "form-control", type: "text", id: newId("crs"), placeholder: CRS84 });
  const element = h(
    "div",
    { class: "bbox", role: "group", "aria-label": name },
    ...sides.map((side) => side.element),
    h(
      "div",
      { class: "bbox-crs" },
      h("label", { class: "form-text", for: crs.id }, t("Coordinate reference system")),
      crs,
    ),
  );
  return {
    element,
    control: null,
    read: () => {
      const entered = sides.map((side) => side.control.value.trim());
      if (entered.every((text) => text === "")) return undefined;
      const missing = entered.findIndex((text) => text === "");
      if (missing >= 0) {
        throw new FieldError(t("A bounding box needs all four numbers."), sides[missing].control);
      }
      const bbox = entered.map(Number);
      const wrong = bbox.findIndex((number) => !Number.isFinite(number));
      if (wrong >= 0) throw new FieldError(t("This must be a number."), sides[wrong].control);
      return crs.value.trim() ? { bbox, crs: crs.value.trim() } : { bbox };
    },
    write: (value) => {
      const { bbox = [], crs: given = "" } = value ?? {};
      const flat = bbox.length === 6 ? [bbox[0], bbox[1], bbox[3], bbox[4]] : bbox;
      sides.forEach((side, i) => {
        side.control.value = String(flat[i] ?? "");
      });
      crs.value = given;
    },
  };
}

/** Any number of values of one schema. */
export function listWidget(schema, name, least, most) {
  const rows = [];
  const body = h("div", { class: "list-rows" });
  const add = h(
    "button",
    { type: "button", class: "btn btn-sm btn-outline-secondary", "aria-label": t("Add {title}", { title: name }) },
    `+ ${t("Add")}`,
  );
  const changed = () => {
    rows.forEach((row, i) => {
      row.remove.setAttribute("aria-label", t("Remove {title}", { title: `${name} ${i + 1}` }));
    });
    add.disabled = rows.length >= most;
    body.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const addRow = () => {
    const widget = makeWidget(schema, `${name} ${rows.length + 1}`);
    const remove = h("button", { type: "button", class: "btn btn-sm btn-outline-secondary" }, "×");
    const row = {
      widget,
      remove,
      element: h("div", { class: "list-row" }, h("div", { class: "list-value" }, widget.element), remove),
    };
    remove.addEventListener("click", () => {
      rows.splice(rows.indexOf(row), 1);
      row.element.remove();
      changed();
      add.focus();
    });
    rows.push(row);
    body.append(row.element);
    changed();
    return row;
  };
  add.addEventListener("click", () => {
    addRow().element.querySelector("input, select, textarea")?.focus();
  });
  for (let i = 0; i < least; i += 1) addRow();
  return {
    element: h("div", { role: "group", "aria-label": name }, body, add),
    control: null,
    contents: () => rows.flatMap((row) => row.widget.contents()),
    read: () => {
      if (rows.length === 0) return undefined;
      const values = rows.map((row) => {
        const value = row.widget.read();
        if (value === undefined) {
          const control = row.element.querySelector("input, select, textarea");
          throw new FieldError(t("This is required."), control);
        }
        return value;
      });
      if (values.length < least) throw new FieldError(t("At least {count} needed.", { count: least }), add);
      return values;
    },
    write: (value) => {
      for (const row of rows.splice(0)) row.element.remove();
      for (const item of Array.isArray(value) ? value : value === undefined ? [] : [value]) {
        addRow().widget.write(item);
      }
      while (rows.length < least) addRow();
      changed();
    },
  };
}

/** A value that fits one of several schemas. */
function choiceWidget(branches, name) {
  const widgets = branches.map((branch) => makeWidget(branch, name));
  const select = h(
    "select",
    {
      class: "form-select form-select-sm kind",
      id: newId("kind"),
      "aria-label": `${name}: ${t("Kind of value")}`,
    },
    ...branches.map((branch, i) => h("option", { value: i }, branchTitle(branch))),
  );
  const show = () => {
    widgets.forEach((widget, i) => {
      widget.element.hidden = i !== Number(select.value);
    });
  };
  select.addEventListener("change", show);
  show();
  return {
    element: h("div", {}, select, ...widgets.map((widget) => widget.element)),
    control: null,
    contents: () => widgets[Number(select.value)].contents(),
    read: () => widgets[Number(select.value)].read(),
    write: (value) => {
      const index = Math.max(0, branches.findIndex((branch) => fits(branch, value)));
      select.value = String(index);
      widgets[index].write(value);
      show();
    },
  };
}

function branchTitle(schema) {
  if (schema.title) return schema.title;
  switch (kindOf(schema)) {
    case "bbox":
      return t("Bounding box");
    case "binary":
    case "document":
      return schema.contentMediaType ?? t("File");
    case "boolean":
      return t("Yes or no");
    case "number":
      return typeOf(schema) === "integer" ? t("Integer") : t("Number");
    case "list":
      return t("List");
    case "string":
    case "enum":
      return t("Text");
    default:
      return isGeoJson(schema) ? t("GeoJSON") : t("JSON");
  }
}

function fits(schema, value) {
  if (isLink(value)) return ["binary", "document", "json"].includes(kindOf(schema));
  const inline = isQualified(value) ? value.value : value;
  if (isQualified(value) && value.mediaType && schema.contentMediaType) {
    return value.mediaType === schema.contentMediaType;
  }
  switch (typeOf(schema)) {
    case "integer":
      return Number.isInteger(inline);
    case "array":
      return Array.isArray(inline);
    case "object":
      return inline !== null && typeof inline === "object" && !Array.isArray(inline);
    case undefined:
      return true;
    default:
      return typeof inline === typeOf(schema);
  }
}
