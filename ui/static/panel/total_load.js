// Total load: the API's `load`, √(Σ dᵢ dⱼ cos(i, j)). The cosines are fetched when features are
// added or removed; moving a slider sends no request. (With a clamp and a total strength other
// than 1 it is approximate.)
import { api, modelId, retryWhileLoading } from "../lib/api.js";
import { SAFE_DOSE } from "./dose.js";

const SMALL_SCALE = 0.01;
let loadFacts = { of: "" },
  fetching = null;

const rowsKey = (rows) => JSON.stringify(rows.map(({ id, mode }) => [id, mode]));

// Fetches the cosines and thresholds of these features if needed, then calls `onLoaded`.
export async function fetchLoadFacts(rows, onLoaded) {
  const key = rowsKey(rows);
  if (!rows.length || loadFacts.of === key || fetching === key) return;
  fetching = key;
  try {
    // small enough not to be refused, in the same proportions
    const features = rows.map(({ id, mode, strength }) => ({
      id,
      mode,
      strength: strength || SMALL_SCALE,
    }));
    const result = await retryWhileLoading(async () =>
      api("steering/validate", "POST", {
        model: await modelId(),
        steering: { features, unit: "dose", scale: SMALL_SCALE },
      }),
    );
    if (fetching === key) loadFacts = { of: key, ...result };
  } catch (error) {
    if (fetching === key && !error.lost)
      loadFacts = {
        of: key,
        problem:
          error.status === 403
            ? `⚠ This will be refused: ${error.message}`
            : `The load could not be computed: ${error.message}`,
      };
  }
  if (fetching !== key) return;
  fetching = null;
  // after a lost connection the next slider move fetches again
  if (loadFacts.of === key) onLoaded();
}

// The load of these rows times `scale`; null until the cosines are loaded.
export function totalLoad({ rows, scale }) {
  if (loadFacts.of !== rowsKey(rows) || loadFacts.problem) return null;
  const strengths = new Map(rows.map((row) => [row.id, row.strength * scale]));
  // others are the server's default preset
  const doses = loadFacts.applied.map((a) => strengths.get(a.id) ?? a.dose);
  const square = doses.reduce(
    (sum, d, i) => sum + d * loadFacts.cosines[i].reduce((along, c, j) => along + c * doses[j], 0),
    0,
  );
  return Math.sqrt(Math.max(0, square));
}

const EXPLANATION =
  "The combined strength of all sliders, in doses: 1.00 is the limit of one feature alone.";

// Returns [text, explanation].
export function loadText(state) {
  const load = totalLoad(state);
  if (load === null)
    return loadFacts.of === rowsKey(state.rows) && loadFacts.problem
      ? [loadFacts.problem, EXPLANATION]
      : ["Load …", EXPLANATION];
  const { strained_from: strained, broken_from: broken } = loadFacts,
    alone = state.rows.some(
      (row) => row.mode === "add" && Math.abs(row.strength * state.scale) > SAFE_DOSE + 1e-9,
    );
  const verdict =
    load > broken
      ? " ⚠ most replies are broken"
      : load > strained
        ? " ⚠ most replies are strained"
        : alone
          ? " ⚠ a feature beyond 1.00 often breaks"
          : load
            ? ", replies should stay coherent"
            : ", nothing is steered";
  return [
    `Load ${load.toFixed(2)}${verdict}`,
    `${EXPLANATION} Most replies are strained from ${strained.toFixed(2)} on, and broken ` +
      `from ${broken.toFixed(2)} on.`,
  ];
}
