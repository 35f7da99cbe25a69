// Search and filter of the pairs; without it the page is whole, and the form stays hidden.
"use strict";
const form = document.querySelector(".find");
if (form) {
  const text = document.getElementById("find-text");
  const aspect = document.getElementById("find-aspect");
  const pairs = [...document.querySelectorAll(".pair")];
  const words = new Map(pairs.map((pair) => [pair, pair.textContent.toLowerCase()]));
  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    let found = 0;
    for (const pair of pairs) {
      pair.hidden = !((!aspect.value || pair.dataset.aspect === aspect.value) && words.get(pair).includes(wanted));
      found += !pair.hidden;
    }
    for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector(".pair:not([hidden])");
    document.getElementById("found").textContent = `${found} of ${pairs.length} pairs`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  text.addEventListener("input", show);
  aspect.addEventListener("change", show);
  show();
}
