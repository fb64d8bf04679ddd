// Lambda: objects that were created in the yard's bucket, as EventBridge tells of them → the step `on-upload` → started
// executions.
import * as z from "zod";
import { onUploadStep } from "../steps/on-upload.ts";
import { runStep } from "../steps/step.ts";
import { createExecutionClient, type ExecutionClient, readTrigger } from "./executions.ts";
import { createQueueLambda } from "./queue.ts";

const messageSchema = z.looseObject({
  detail: z.looseObject({
    bucket: z.looseObject({ name: z.string() }),
    object: z.looseObject({ key: z.string() }),
  }),
});

/** The handler of one deployment; `client` starts its executions. */
export function createOnUpload(environment: Readonly<Record<string, string | undefined>>, client: ExecutionClient) {
  return createQueueLambda({
    name: "on-upload",
    message: messageSchema,
    // All files of one upload ask the same question.
    groupOf: ({ detail }) => detail.object.key.split("/").slice(0, 3).join("/"),
    async work({ detail: { bucket, object } }, deps) {
      const { yard, startAll } = readTrigger(environment, client);
      const key = keyInYard(yard, bucket.name, object.key);
      if (key === undefined) return;
      const { starts } = await runStep(onUploadStep, { yard, key }, deps);
      await startAll(starts, deps);
    },
  });
}

export const handler = createOnUpload(process.env, createExecutionClient());

/** The key as the yard knows it; undefined for what lies outside. */
function keyInYard(yard: string, bucket: string, key: string): string | undefined {
  const [, host, prefix = ""] = /^[a-z0-9]+:\/\/([^/]*)\/?(.*?)\/?$/.exec(yard) ?? [];
  const start = prefix === "" ? "" : `${prefix}/`;
  return host === bucket && key.startsWith(start) ? key.slice(start.length) : undefined;
}
