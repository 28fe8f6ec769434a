"use strict";
// Tables: press a header to sort, again to reverse; missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = Array.from(table.querySelectorAll("thead th"));
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    const keys = new Map(Array.from(body.rows, (row) => [row, row.cells[column].dataset.key]));
    const numeric = Array.from(keys.values()).every((key) => key === "" || !Number.isNaN(Number(key)));
    const compare = (one, two) => {
      const [a, b] = [keys.get(one), keys.get(two)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return rising ? order : -order;
    };
    body.append(...Array.from(body.rows).sort(compare));
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }));
}
