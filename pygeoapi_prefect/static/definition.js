// The page with the definition of the API, shown by Swagger UI.

import { apiRoot, apiUrl, requestJson } from "./common.js";

try {
  const url = apiUrl("openapi");
  url.searchParams.set("f", "json");
  const spec = await requestJson(url, { headers: { Accept: "*/*" } });
  // requests go where the page came from, under whichever name the browser knows the server by
  spec.servers = [{ url: apiRoot.href.replace(/\/$/, "") }];
  window.SwaggerUIBundle({
    spec,
    dom_id: "#definition",
    deepLinking: true,
    validatorUrl: null,
  });
} catch (error) {
  const problem = document.getElementById("definition-problem");
  problem.textContent = error.message;
  problem.hidden = false;
}
