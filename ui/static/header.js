// The model's name and whether it is ready. Asks /health until it is.
const state = element.querySelector("#state");

function tell(kind, words) {
  state.dataset.state = kind;
  state.querySelector(".words").textContent = words;
}

async function look() {
  try {
    const answer = await fetch(new URL("health", location.origin + location.pathname));
    const health = await answer.json();
    if (answer.ok) return tell("ready", `ready · ${health.model}`);
    tell("loading", "loading the model…");
  } catch {
    tell("lost", "no connection to the server");
  }
  setTimeout(look, 1000);
}
look();
