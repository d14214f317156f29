(() => {
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  const bar = document.getElementById("filters");
  if (!bar) return;
  const sides = [...document.querySelectorAll("[data-side]")];
  const count = document.getElementById("shown");
  const apply = () => {
    const { card, suite, show } = Object.fromEntries(new FormData(bar));
    let left = 0;
    for (const side of sides) {
      const fits =
        (!card || side.dataset.card === card) &&
        (!suite || side.dataset.suite === suite) &&
        (show !== "worse" || side.dataset.worse === "1") &&
        (show !== "hits" || side.dataset.hits === "1");
      side.hidden = !fits;
      left += fits;
    }
    count.textContent = `${left} of ${sides.length} shown`;
  };
  bar.hidden = false;
  bar.addEventListener("change", apply);
  apply();
})();
