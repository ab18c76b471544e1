// Arrow keys lead from word to word of a reply, so that its numbers need no mouse.
document.addEventListener("keydown", (event) => {
  const word = event.target.closest?.(".word");
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (!word || !step) return;
  word[step]?.focus();
  event.preventDefault();
});
