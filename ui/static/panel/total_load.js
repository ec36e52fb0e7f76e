// How far all sliders go together: the API's `load`, √(Σ dᵢ dⱼ cos(i, j)). The API is asked for the cosines when features come or go;
// between that moving a slider asks nobody. (Beside a clamp, a strength of all other than 1 is nearly so.) Knows no elements.
import { api, model, whenReady } from "../lib/api.js";
import { SAFE } from "./dose.js";

const LITTLE = 0.01;
let known = { of: "" },
  asking = null;

const setOf = (rows) => JSON.stringify(rows.map(({ id, mode }) => [id, mode]));

// Asks for what is known of these features together, if it is not known yet; then `told` is called.
export async function learn(rows, told) {
  const of = setOf(rows);
  if (!rows.length || known.of === of || asking === of) return;
  asking = of;
  try {
    // So little of each that it is nowhere too much, and still each persona's proportions.
    const features = rows.map(({ id, mode, strength }) => ({
      id,
      mode,
      strength: strength || LITTLE,
    }));
    const found = await whenReady(async () =>
      api("steering/validate", "POST", {
        model: await model(),
        steering: { features, unit: "dose", scale: LITTLE },
      }),
    );
    if (asking === of) known = { of, ...found };
  } catch (error) {
    if (asking === of && !error.lost)
      known = {
        of,
        problem:
          error.status === 403
            ? `⚠ This will be refused: ${error.message}`
            : `The load is not known: ${error.message}`,
      };
  }
  if (asking !== of) return;
  asking = null;
  if (known.of === of) told(); // who lost the connection asks again when a slider moves
}

// The load of these rows, each as strong as it is times `scale`; null where nobody knows it yet.
export function loadOf({ rows, scale }) {
  if (known.of !== setOf(rows) || known.problem) return null;
  const mine = new Map(rows.map((row) => [row.id, row.strength * scale]));
  const doses = known.applied.map((a) => mine.get(a.id) ?? a.dose); // the others are the server's own default, which lies beneath
  const square = doses.reduce(
    (sum, d, i) => sum + d * known.cosines[i].reduce((along, c, j) => along + c * doses[j], 0),
    0,
  );
  return Math.sqrt(Math.max(0, square));
}

const MEANS =
  "How far all sliders go together, in doses: 1.00 is as far as one feature alone may go.";

// In words, and what they mean.
export function loadWords(state) {
  const load = loadOf(state);
  if (load === null)
    return known.of === setOf(state.rows) && known.problem
      ? [known.problem, MEANS]
      : ["Load …", MEANS];
  const { strained_from: strained, broken_from: broken } = known,
    alone = state.rows.some(
      (row) => row.mode === "add" && Math.abs(row.strength * state.scale) > SAFE + 1e-9,
    );
  const words =
    load > broken
      ? " ⚠ most replies break"
      : load > strained
        ? " ⚠ most replies strain"
        : alone
          ? " ⚠ a feature beyond 1.00 often breaks"
          : load
            ? ", replies should hold"
            : ", nothing is steered";
  return [
    `Load ${load.toFixed(2)}${words}`,
    `${MEANS} From ${strained.toFixed(2)} on most replies strain, from ${broken.toFixed(2)} on they break.`,
  ];
}
