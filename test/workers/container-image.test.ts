import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { readContainerImage } from "../../workers/container-image.ts";
import { listen } from "../listen.ts";

const IMAGE = `sha256:${"c".repeat(64)}`;

test("a worker in a container of ECS knows its image; elsewhere it knows none", async () => {
  let body = JSON.stringify({ DockerId: "d", ImageID: IMAGE, Labels: {} });
  const endpoint = await listen(http.createServer((request, response) => void response.end(request.url && body)));
  const environment = { ECS_CONTAINER_METADATA_URI_V4: `${endpoint}/v4/abc` };
  assert.equal(await readContainerImage(environment), IMAGE);
  for (body of ["{}", "no json", JSON.stringify({ ImageID: "latest" })]) {
    assert.equal(await readContainerImage(environment), undefined, body);
  }
  assert.equal(await readContainerImage({}), undefined);
  assert.equal(await readContainerImage({ ECS_CONTAINER_METADATA_URI_V4: "http://127.0.0.1:1/" }), undefined);
});
