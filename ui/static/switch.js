// On a phone there is room for one pane: which one.
function show(pane) {
  document.body.dataset.pane = pane;
  for (const b of element.querySelectorAll("button")) b.setAttribute("aria-pressed", b.dataset.pane === pane);
}
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-pane]");
  if (button) show(button.dataset.pane);
});
show("steered");
