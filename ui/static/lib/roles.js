// What the role of one's key does not reach, as the API tells it; without keys there is nothing like that. Knows no elements.
import { api } from "./api.js";

let me = null;

export async function whoAmI() {
  return (me = await api("me"));
}
// Asks again where it could not be told when the page came, as while the model is loaded.
export const known = async () => me ?? whoAmI();

// Why a route is not for whoever is here, such as "POST /v1/presets"; "" where it is.
export function beyond(route, what = "This") {
  const least = me?.beyond?.[route];
  return least ? `${what} takes a key with the role ${least}; yours is ${me.role}.` : "";
}

// Whether only whole personas may be steered, all of their features as much more or less.
export const onlyPersonas = () =>
  me?.steering?.steers === "presets"
    ? `A key with the role ${me.role} steers by personas as they are: choose one, and how strong it is.`
    : "";
