"use strict";
const $ = id => document.getElementById(id);
const checks = [...document.querySelectorAll(".check")];
function filter() {
  const text = $("text").value.toLowerCase(), outcome = $("outcome").value, testbed = $("testbed").value;
  let count = 0;
  for (const check of checks) {
    const results = check.dataset.results.split(" ").map(pair => pair.split("="));
    const fits = results.some(([name, word]) => (!testbed || name === testbed) && (!outcome || word === outcome));
    check.hidden = !(fits || (!testbed && !outcome)) || !check.textContent.toLowerCase().includes(text);
    if (!check.hidden) count += 1;
    for (const row of check.querySelectorAll("tr")) row.hidden = Boolean(testbed) && row.dataset.testbed !== testbed;
  }
  for (const title of document.querySelectorAll("#checks h3")) {
    let next = title.nextElementSibling, any = false;
    for (; next && next.tagName !== "H3"; next = next.nextElementSibling) any = any || !next.hidden;
    title.hidden = !any;
  }
  $("shown").textContent = `${count} of ${checks.length} checks`;
}
function fromHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const id of ["text", "outcome", "testbed"]) if (wanted.has(id)) $(id).value = wanted.get(id);
  filter();
}
$("filters").addEventListener("input", filter);
$("filters").addEventListener("submit", event => event.preventDefault());
for (const link of document.querySelectorAll("[data-group]")) link.addEventListener("click", event => {
  event.preventDefault();
  $("text").value = link.dataset.group + "/";
  filter();
  $("filters").scrollIntoView();
});
addEventListener("hashchange", fromHash);
fromHash();
