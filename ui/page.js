// Runs once when the page has loaded. Gradio draws the elements; what it has no setting for is done here.
() => {
  // Where it would cover the conversation, the settings stay closed until they are asked for.
  const settings = document.querySelector("#sg-settings .toggle-button");
  settings.title = "Settings";
  settings.setAttribute("aria-label", "Settings");
  const open = document.querySelector("#sg-settings.open") !== null;
  if (!open && matchMedia("(min-width: 1000px)").matches) settings.click();

  const stop = () => document.querySelector("#sg-stop");
  const visible = (element) => element !== null && element.offsetParent !== null;

  document.addEventListener("keydown", (event) => {
    const button = stop();
    if (event.key === "Escape" && !event.defaultPrevented && visible(button)) button.click();
  });

  // The log is busy while an answer comes, so that a screen reader hears the status line and then the whole answer.
  const mark = () => {
    const log = document.querySelector('#sg-chat [role="log"]');
    if (log) log.setAttribute("aria-busy", String(visible(stop())));
  };
  new MutationObserver(mark).observe(document.body, { childList: true, subtree: true });
  mark();
}
