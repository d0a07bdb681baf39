"use strict";
// What the page can do beyond being read: tables that sort. Without scripts it is complete.

// A number, an interval or a limit such as "> 1,000" sorts by its first number; words, in a column of numbers, have none.
function value(cell, numeric) {
  const text = cell.textContent.trim();
  if (!numeric) return text;
  const number = Number.parseFloat(text.replace("\u2212", "-").replace(/^[[> ]+|,/g, ""));
  return Number.isNaN(number) ? null : number;
}

// What has no value (did not converge, was not measured) stays last in either order.
function sort(table, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const numeric = heading.classList.contains("number");
  const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[heading.cellIndex], numeric), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = numeric ? a - b : a.localeCompare(b, "en");
    return descending ? -order : order;
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...rows.map(([, row]) => row));
  document.querySelector("[role=status]").textContent =
    `Sorted by ${heading.textContent.trim()}, ${descending ? "descending" : "ascending"}`;
}

for (const table of document.querySelectorAll("table")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
  }
}
