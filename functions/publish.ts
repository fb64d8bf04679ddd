// Lambda: the step `publish`, with the signing key of the deployment.
import { openSigner } from "../signing/open-signer.ts";
import { publishStep } from "../steps/publish.ts";
import { runStep } from "../steps/step.ts";
import { createLambda } from "./handler.ts";

export const handler = createLambda("publish", async (event, deps) =>
  runStep(publishStep, event, { ...deps, signer: await openSigner(process.env) }),
);
