// Notice: one line of feedback in the steering panel, with an action where there is one.
import { el } from "./dom.js";

export const noticeNode = el("div", { class: "notice", role: "status" });

export function notice(message, problem = false, [label, act] = []) {
  noticeNode.classList.toggle("problem", problem);
  noticeNode.replaceChildren(
    message,
    label ? el("button", { type: "button", onclick: act }, label) : "",
  );
}
