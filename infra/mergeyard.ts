// One environment: its four stacks, in the order in which they need one another.
import { type App, Tags } from "aws-cdk-lib";
import { ComputeStack } from "./compute-stack.ts";
import type { Environment } from "./config.ts";
import { FlowStack } from "./flow-stack.ts";
import { ObservabilityStack } from "./observability-stack.ts";
import { StorageStack } from "./storage-stack.ts";
import { acknowledgeWildcards } from "./wildcards.ts";

export type Mergeyard = {
  readonly storage: StorageStack;
  readonly compute: ComputeStack;
  readonly flow: FlowStack;
  readonly observability: ObservabilityStack;
};

/** `imageContext` is the folder that the worker's image is built from. */
export function createMergeyard(app: App, environment: Environment, imageContext: string): Mergeyard {
  const { account, region } = environment;
  const props = { env: { account, region } };
  const id = (part: string) => `Mergeyard-${environment.name}-${part}`;
  const storage = new StorageStack(app, id("Storage"), environment, props);
  const { place, yardUri, bucket } = storage;
  const compute = new ComputeStack(app, id("Compute"), { ...props, environment, place, imageContext });
  const flow = new FlowStack(app, id("Flow"), {
    ...props,
    environment,
    place,
    yardUri,
    bucketName: bucket.bucketName,
    compute: compute.compute,
  });
  const observability = new ObservabilityStack(app, id("Observability"), {
    ...props,
    environment,
    keyArn: place.keyArn,
    compute: compute.compute,
    flow: flow.flow,
  });
  // They know one another by name, so the order has to be said.
  flow.addStackDependency(compute);
  for (const stack of [compute, flow]) observability.addStackDependency(stack);
  const stacks = { storage, compute, flow, observability };
  for (const stack of Object.values(stacks)) {
    Tags.of(stack).add("app", "mergeyard");
    Tags.of(stack).add("mergeyard:environment", environment.name);
    acknowledgeWildcards(stack, stack === storage ? new Map() : storage.imports());
  }
  return stacks;
}
