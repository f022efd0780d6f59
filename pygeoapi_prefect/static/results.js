// The page with the results of a job.

import { previewAll } from "./previews.js";

previewAll(document);
