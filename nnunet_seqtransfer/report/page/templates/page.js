"use strict";
(() => {
  const tip = document.getElementById("tip");
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  const hide = () => { tip.hidden = true; };
  const show = (text, x, y) => {
    if (tip.textContent !== text) tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
    tip.style.left = `${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };
  const showAt = (text, element) => {
    const box = element.getBoundingClientRect();
    show(text, box.right - Math.min(box.width / 2, 40), box.bottom - Math.min(box.height / 2, 20));
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  for (const moved of ["wheel", "touchmove"]) document.addEventListener(moved, hide, { passive: true });

  // Marks and bars: the browser's own hints, which are slow and not for the keyboard, give way to ours.
  for (const element of all("[data-tip]")) {
    for (const title of all(":scope > title", element)) title.remove();
    element.addEventListener("pointermove", (event) => show(element.dataset.tip, event.clientX, event.clientY));
    element.addEventListener("pointerleave", hide);
    element.addEventListener("focus", () => showAt(element.dataset.tip, element));
    element.addEventListener("blur", hide);
  }

  // Heat map: one stop for Tab, arrow keys inside.
  for (const table of all("table.heat")) {
    const names = table.dataset.names.split("\n");
    const parts = table.dataset.parts ? table.dataset.parts.split("\n") : [];
    const rows = all("tbody tr", table).map((row) => all("td", row));
    const words = (i, j) => {
      const cell = rows[i][j];
      if (i === j) return names[i];
      const values = (cell.dataset.c || "").split(" ");
      const told = parts.map((part, k) => `${part} ${values[k]}`);
      const distance = cell.dataset.d === "none" ? "no distance" : `distance ${cell.dataset.d}`;
      return [`from ${names[i]}`, `to ${names[j]}`, distance, ...(values[0] ? told : [])].join("\n");
    };
    rows.forEach((row, i) => row.forEach((cell, j) => {
      cell.tabIndex = i === 0 && j === Math.min(1, row.length - 1) ? 0 : -1;
      cell.addEventListener("pointermove", (event) => show(words(i, j), event.clientX, event.clientY));
      cell.addEventListener("pointerleave", hide);
      cell.addEventListener("focus", () => showAt(words(i, j), cell));
      cell.addEventListener("blur", hide);
      cell.addEventListener("keydown", (event) => {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        const next = step && rows[i + step[0]] && rows[i + step[0]][j + step[1]];
        if (!step) return;
        event.preventDefault();
        if (!next) return;
        cell.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    }));
  }

  // Curves: the values of the nearest epoch.
  for (const plot of all("svg[data-series]")) {
    const series = JSON.parse(plot.dataset.series);
    const cursor = plot.querySelector(".cursor");
    let place = series.x.length - 1;
    const words = (k) => [`epoch ${series.epoch[k]}`, ...series.lines.map(([name, values]) =>
      `${name} ${values[k] === null ? "none" : values[k]}`)].join("\n");
    const mark = (k) => {
      place = k;
      cursor.setAttribute("x1", series.x[k]);
      cursor.setAttribute("x2", series.x[k]);
      cursor.classList.add("on");
    };
    const leave = () => { cursor.classList.remove("on"); hide(); };
    const atKey = () => {
      const box = plot.getBoundingClientRect();
      mark(place);
      show(words(place), box.left + series.x[place] / plot.viewBox.baseVal.width * box.width, box.top + 20);
    };
    if (!series.x.length) continue;
    const atPointer = (event) => {
      const box = plot.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
      let best = 0;
      series.x.forEach((value, k) => { if (Math.abs(value - x) < Math.abs(series.x[best] - x)) best = k; });
      mark(best);
      show(words(best), event.clientX, event.clientY);
    };
    plot.addEventListener("pointermove", atPointer);
    plot.addEventListener("pointerdown", atPointer);
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("focus", atKey);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      place = Math.max(0, Math.min(series.x.length - 1, place + step));
      atKey();
    });
  }

  // Tables: press a header to sort, again to turn round; missing values stay last.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    all("thead th", table).forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
      const rising = header.getAttribute("aria-sort") !== "ascending";
      const numeric = header.classList.contains("num") || Array.from(body.rows).every(
        (row) => row.cells[column].dataset.key === "" || !Number.isNaN(Number(row.cells[column].dataset.key)));
      const compare = (one, two) => {
        const [a, b] = [one, two].map((row) => row.cells[column].dataset.key);
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
        return rising ? order : -order;
      };
      body.append(...Array.from(body.rows).sort(compare));
      for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    }));
  }

  // Copying: where the clipboard is closed to files, the text is selected instead.
  for (const button of all("button.copy")) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(source);
      try {
        await navigator.clipboard.writeText(source.innerText);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected: copy it now";
      }
    });
  }
})();
