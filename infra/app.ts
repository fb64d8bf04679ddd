// The CDK app: `npx cdk synth|deploy -c environment=NAME --all`. Bundles the worker and reads
// infra/environments/NAME.json; needs neither Docker nor network until it is deployed.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { App, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import * as z from "zod";
import { readEnvironment } from "./config.ts";
import { createMergeyard } from "./mergeyard.ts";

const ROOT = path.resolve(import.meta.dirname, "..");
const IMAGE_CONTEXT = path.join(ROOT, "cdk.out", ".worker-image");

/** Flags of cdk.json: the same templates with and without the command line tool. */
const { context } = z
  .looseObject({ context: z.record(z.string(), z.unknown()) })
  .parse(JSON.parse(readFileSync(path.join(ROOT, "cdk.json"), "utf8")));

// CloudFormation's own rules take a third of the time; the tests hold the stacks to them.
const app = new App({ context, builtinCloudFormationValidation: false });
Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
const name = z.string().default("default").parse(app.node.tryGetContext("environment"));
execFileSync(process.execPath, [path.join(ROOT, "tools/bundle-worker.ts"), IMAGE_CONTEXT], {
  stdio: ["ignore", "ignore", "inherit"],
});
createMergeyard(app, readEnvironment(name), IMAGE_CONTEXT);
app.synth();
