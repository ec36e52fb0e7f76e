// Roles: what the signed-in user's role does not permit, from `GET /v1/me`. Without API keys
// everything is permitted.
import { api } from "./api.js";

let cachedMe = null;

export async function fetchMe() {
  return (cachedMe = await api("me"));
}
// Fetches `/v1/me` if it failed when the page loaded, as it does while the model loads.
export const loadMe = async () => cachedMe ?? fetchMe();

// Why the user may not call a route such as "POST /v1/presets"; "" if they may.
export function missingRoleText(route, what = "This") {
  const least = cachedMe?.beyond?.[route];
  return least ? `${what} takes a key with the role ${least}; yours is ${cachedMe.role}.` : "";
}

// Why single sliders are disabled: some roles may only use personas as they are; "" otherwise.
export const presetsOnlyText = () =>
  cachedMe?.steering?.steers === "presets"
    ? `A key with the role ${cachedMe.role} steers by personas as they are: choose one, and ` +
      "how strong it is."
    : "";
