// Lambda: the step `notify`.
import { notifyStep } from "../steps/notify.ts";
import { createHandler } from "./handler.ts";

export const handler = createHandler(notifyStep);
