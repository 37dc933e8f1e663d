// Sorts the table of recorded runs by a column; each heading becomes a button.
document.querySelectorAll(".ragops-gallery table").forEach((table) => {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  table.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const compare = (one, two) => {
        const [a, b] = [value(one, column), value(two, column)];
        const difference = a === "inf" || b === "inf" ? (a === "inf") - (b === "inf") : a - b;
        return direction * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
});
