// A click, Enter or Space on a column head sorts the table, smallest first; again sorts it in reverse. Missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const value = (row) => (index === 0 ? row.cells[index].dataset.value : Number(row.cells[index].dataset.value));
      const [known, missing] = [[], []];
      for (const row of body.rows) ("value" in row.cells[index].dataset ? known : missing).push(row);
      known.sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
      body.append(...known, ...missing);
    });
  });
}
