// The page of a job: keeps itself up to date until the job has ended.

import {
  apiUrl,
  humanDuration,
  jsonOf,
  localiseTimes,
  pause,
  Problem,
  request,
  requestPage,
  t,
  timeElement,
} from "./common.js";
import { followLog } from "./log.js";
import { previewAll } from "./previews.js";

const POLL_MILLISECONDS = 800;
const POLL_MAX_MILLISECONDS = 5000;
const RETRY_MAX_MILLISECONDS = 30_000;
const ENDED = ["successful", "failed", "dismissed"];

const job = document.getElementById("job");
const { jobId } = job.dataset;
const jobUrl = apiUrl("jobs", jobId);
const connection = document.getElementById("connection");
const dismiss = document.getElementById("dismiss");

let isRemoved = false;
let clockSkew = 0; // milliseconds by which the clock of the server is ahead
let times = {};

function setText(id, text) {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
}

function showStatus(status) {
  const { status: name, message = "", progress = 0 } = status;
  if (job.dataset.status !== name) {
    job.dataset.status = name;
    const badge = document.createElement("span");
    badge.className = `status status-${name}`;
    badge.textContent = t(name);
    document.getElementById("status").replaceChildren(badge);
    document.title = document.title.replace(/^[^–]*/, `${t(name)} `);
    setText("announcement", `${t(name)}. ${message}`);
  }
  setText("message", message);
  showProgress(Math.trunc(progress));
  times = status;
  for (const fact of ["created", "started", "finished"]) {
    const element = document.querySelector(`[data-fact="${fact}"]`);
    const known = element.querySelector("time")?.getAttribute("datetime");
    if (status[fact] && known !== status[fact]) element.replaceChildren(timeElement(status[fact]));
  }
  showDuration();
  showDismiss();
}

/** Show how far a job is; 0 is what is told of one that tells nothing. */
function showProgress(percent) {
  const bar = document.getElementById("progress");
  if (percent === 0) bar.removeAttribute("value");
  else bar.value = percent;
  setText("progress-text", percent === 0 ? "" : `${percent} %`);
}

function showDuration() {
  if (!times.started || isEnded()) return;
  const end = times.finished ? Date.parse(times.finished) : Date.now() + clockSkew;
  const seconds = Math.max(0, (end - Date.parse(times.started)) / 1000);
  document.querySelector('[data-fact="duration"]').textContent = humanDuration(seconds);
}

function isEnded() {
  return job.dataset.ended === "true";
}

function showDismiss() {
  const isStopping = job.dataset.status === "dismissed" && !isEnded();
  dismiss.hidden = isRemoved;
  dismiss.disabled = isStopping;
  dismiss.textContent = isEnded() ? dismiss.dataset.removeText : dismiss.dataset.dismissText;
}

/** Take over from the page as the server makes it now what a status does not tell. */
async function showOutcome() {
  const page = await requestPage(window.location.href);
  const fresh = page.getElementById("job");
  if (fresh === null) throw new Problem(0, "");
  document.getElementById("outcome").replaceWith(document.adoptNode(page.getElementById("outcome")));
  showDuration();
  job.dataset.ended = fresh.dataset.ended;
  showDismiss();
  previewAll(document.getElementById("outcome"));
}

function showRemoved() {
  isRemoved = true;
  connection.textContent = t("This job has been removed.");
  showDismiss();
}

async function follow() {
  let wait = POLL_MILLISECONDS;
  let known = "";
  while (!isEnded() && !isRemoved) {
    await pause(wait);
    try {
      const response = await request(jobUrl, { headers: { Accept: "application/json" } });
      clockSkew = (Date.parse(response.headers.get("Date")) || Date.now()) - Date.now();
      const status = await jsonOf(response);
      showStatus(status);
      if (ENDED.includes(status.status)) await showOutcome();
      const now = `${status.status} ${status.progress} ${status.message}`;
      wait = now === known ? Math.min(wait * 1.25, POLL_MAX_MILLISECONDS) : POLL_MILLISECONDS;
      known = now;
      connection.textContent = "";
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.status === 404) showRemoved();
      else {
        connection.textContent = t("The server cannot be reached. Trying again …");
        wait = Math.min(wait * 2, RETRY_MAX_MILLISECONDS);
      }
    }
  }
}

// Dismissing

const dialog = document.getElementById("confirm");

dismiss.addEventListener("click", () => {
  const question = isEnded()
    ? "Remove this job with all its results? This cannot be undone."
    : "Dismiss this job? It stops, and has no results.";
  document.getElementById("confirm-text").textContent = t(question);
  document.getElementById("confirm-button").textContent = dismiss.textContent;
  dialog.returnValue = "cancel";
  dialog.showModal();
});

dialog.addEventListener("close", async () => {
  if (dialog.returnValue !== "confirm") return;
  const removes = isEnded();
  dismiss.disabled = true;
  try {
    const response = await request(jobUrl, { method: "DELETE", headers: { Accept: "application/json" } });
    const status = await jsonOf(response);
    if (removes) {
      const list = apiUrl("jobs");
      list.search = "f=html";
      window.location.assign(list);
    } else showStatus(status);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    connection.textContent = problem.message;
    dismiss.disabled = false;
  }
});

localiseTimes(document.getElementById("facts"));

for (const fact of ["started", "finished"]) {
  times[fact] = document.querySelector(`[data-fact="${fact}"] time`)?.getAttribute("datetime");
}

showDismiss();
previewAll(document.getElementById("outcome"));
follow();
setInterval(showDuration, 1000);
followLog(jobId, document.getElementById("log"), () => {}).then((isPublished) => {
  if (!isPublished) document.getElementById("log").closest("section").hidden = true;
});
