// The page with the whole log of a job.

import { followLog } from "./log.js";

const { jobId } = document.getElementById("logs").dataset;
const status = document.getElementById("log-status");

followLog(jobId, document.getElementById("log"), (text) => {
  status.textContent = text;
});
