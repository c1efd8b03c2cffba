"use strict";

const PAGE = 40;
const columns = DATA.table.map((column) => ({
  ...column,
  // Text comes as codes into its distinct values, since most of it repeats.
  at: column.codes ? (row) => column.values[column.codes[row]] : (row) => column.values[row],
}));
const rowCount = DATA.rows;
const table = document.getElementById("table");
const status = document.getElementById("status");
const more = document.getElementById("more");
const filters = new Map();
let search = "";
let sorted = { column: null, descending: false };
let limit = PAGE;

const decimals = (digits) => (value) => (value === null ? "" : value.toFixed(digits));
const FORMATS = {
  text: String,
  number: (value) => (value === null ? "" : String(value)),
  percent: (value) => `${(100 * value).toFixed(1)} %`,
  interval: ([low, high]) => `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}`,
  epsilon: String,
  count: decimals(1),
  distance: decimals(4),
};

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A command also names surrogates; what it scores is the row's own variant and attack.
function searched(column, row) {
  return column.kind === "command" ? column.at(row).split(" score ").slice(1).join(" ") : column.at(row);
}

function matches(row) {
  for (const [column, wanted] of filters) {
    if (column.kind === "flags" ? !accepts(wanted, column.at(row)) : String(column.at(row)) !== wanted) return false;
  }
  if (!search) return true;
  return columns.some((column) => column.codes && searched(column, row).toLowerCase().includes(search));
}

function accepts(wanted, flags) {
  if (wanted === "any") return flags !== "";
  return wanted === "none" ? flags === "" : flags.split(";").includes(wanted);
}

// What a column is sorted by, where that is not what it shows.
function sortKey(column) {
  if (column.kind === "interval") return (row) => column.at(row)[0];
  return column.order ? (row) => column.order[column.codes[row]] : column.at;
}

function order(column) {
  const key = sortKey(column);
  return (first, second) => {
    const [a, b] = [key(first), key(second)];
    if (a === null || b === null) return (a === null) - (b === null);
    const difference = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return sorted.descending ? -difference : difference;
  };
}

function selection() {
  const rows = Array.from({ length: rowCount }, (_, row) => row).filter(matches);
  return sorted.column ? rows.sort(order(sorted.column)) : rows;
}

function cell(column, row) {
  const value = column.at(row);
  const made = element("td", { className: column.className });
  if (column.kind === "flags") {
    made.append(...value.split(";").filter(Boolean).map((flag) => element("span", { className: "flag" }, flag)));
  } else if (column.kind === "command") {
    const button = element("button", { type: "button", className: "copy" }, "Copy");
    button.setAttribute("aria-label", `Copy: ${value}`);
    made.append(button, element("code", {}, value));
  } else {
    made.append(FORMATS[column.kind](value));
  }
  return made;
}

function render() {
  const rows = selection();
  const body = document.createDocumentFragment();
  for (const row of rows.slice(0, limit)) body.append(element("tr", {}, ...columns.map((column) => cell(column, row))));
  table.tBodies[0].replaceChildren(body);
  const shown = Math.min(limit, rows.length);
  const total = rows.length === rowCount ? `${rowCount} cells` : `${rows.length} of ${rowCount} cells`;
  status.textContent = shown < rows.length ? `${total}, the first ${shown} shown` : total;
  more.hidden = shown === rows.length;
}

function sortBy(column, header) {
  sorted = { column, descending: sorted.column === column && !sorted.descending };
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
  render();
}

function buildHeader() {
  const row = element("tr");
  for (const column of columns) {
    column.className = [column.kind, column.extra && "extra", column.number && "number"].filter(Boolean).join(" ");
    const header = element("th", { scope: "col", className: column.className });
    const button = element("button", { type: "button" }, column.label);
    button.addEventListener("click", () => sortBy(column, header));
    header.append(button);
    row.append(header);
  }
  table.tHead.append(row);
}

function choices(column) {
  if (column.kind === "flags") {
    const flags = new Set(column.values.flatMap((value) => value.split(";")).filter(Boolean));
    return [["any", "flagged"], ["none", "not flagged"], ...[...flags].sort().map((flag) => [flag, flag])];
  }
  const values = column.values.filter((value) => value !== "");
  const number = (value) => column.order?.[column.values.indexOf(value)] ?? Infinity;
  values.sort((a, b) => (column.order ? number(a) - number(b) : a.localeCompare(b, "en", { numeric: true })));
  return values.map((value) => [String(value), FORMATS[column.kind](value)]);
}

function refilter() {
  limit = PAGE;
  render();
}

function buildFilters() {
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  const input = element("input", { type: "search", id: "search", placeholder: "variant, attack, flag …" });
  input.addEventListener("input", () => {
    search = input.value.trim().toLowerCase();
    refilter();
  });
  form.append(element("label", {}, "Search", input));
  for (const column of columns.filter((column) => column.filter)) {
    const select = element("select", { name: column.key }, element("option", { value: "" }, "all"));
    select.append(...choices(column).map(([value, label]) => element("option", { value }, label)));
    select.addEventListener("change", () => {
      if (select.value) filters.set(column, select.value);
      else filters.delete(column);
      refilter();
    });
    form.append(element("label", {}, column.label, select));
  }
}

async function copy(button) {
  const code = button.nextElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    // Without permission the command is selected, for the keyboard to copy.
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

table.addEventListener("click", (event) => {
  if (event.target.matches(".copy")) copy(event.target);
});
more.addEventListener("click", () => {
  limit += 10 * PAGE;
  render();
});
document.getElementById("all-columns").addEventListener("change", (event) => {
  table.classList.toggle("all", event.target.checked);
});

buildHeader();
buildFilters();
render();
