// What a function is that a queue feeds: every message alone, a message that failed back to the queue alone. After a
// few attempts the queue moves it to its dead letters, from where it is sent back once the reason is gone.
import * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { describeError } from "../steps/error-record.ts";
import type { StepDeps } from "../steps/step.ts";
import { createLambda } from "./handler.ts";

const batchSchema = z.looseObject({
  Records: z.array(z.looseObject({ messageId: z.string(), body: z.string() })),
});

type BatchResponse = { readonly batchItemFailures: readonly { readonly itemIdentifier: string }[] };

export type QueueWork<Message> = {
  readonly name: string;
  /** What a message's body holds. */
  readonly message: z.ZodType<Message>;
  /** Messages of one group ask for the same work; it is done once, for the first of them. */
  readonly groupOf: (message: Message) => string;
  readonly work: (message: Message, deps: StepDeps) => Promise<void>;
};

/** The Lambda handler of a queue's messages; answers with those that failed. */
export function createQueueLambda<Message>({ name, message, groupOf, work }: QueueWork<Message>) {
  return createLambda(name, async (event, deps): Promise<BatchResponse> => {
    const done = new Map<string, Promise<void>>();
    const failed: string[] = [];
    for (const { messageId, body } of batchSchema.parse(event).Records) {
      try {
        const parsed = message.parse(JSON.parse(body));
        const group = groupOf(parsed);
        const ended = done.get(group) ?? work(parsed, deps);
        done.set(group, ended);
        await ended;
      } catch (error) {
        const code = error instanceof MergeyardError ? error.code : undefined;
        deps.log({ event: "message-failed", function: name, messageId, code, error: describeError(error) });
        failed.push(messageId);
      }
    }
    return { batchItemFailures: failed.map((itemIdentifier) => ({ itemIdentifier })) };
  });
}
