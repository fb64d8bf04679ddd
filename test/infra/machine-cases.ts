// Machines, jobs and their network.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as z from "zod";
import { engineBytes, fleetSchema } from "../../core/plan/machine.ts";
import { JOB_RETRY } from "../../flow/job-retry.ts";
import { closed, DEPLOYMENTS, full, standard } from "./deployments.ts";
import { at, type Value } from "./templates.ts";

const text = (value: unknown) => JSON.stringify(value);

test("jobs are tried again by the rules that the local runner has", () => {
  const expected = JOB_RETRY.evaluateOnExit.map((rule) =>
    Object.fromEntries(
      Object.entries(rule).map(([name, value]) => [`${name[0]?.toUpperCase()}${name.slice(1)}`, value]),
    ),
  );
  for (const { properties } of full.ofType("AWS::Batch::JobDefinition")) {
    assert.deepEqual(properties.RetryStrategy, { Attempts: JOB_RETRY.attempts, EvaluateOnExit: expected });
  }
});

test("workers are not root, cannot write their root, have an init process, a time limit and a log", () => {
  const jobs = full.ofType("AWS::Batch::JobDefinition");
  assert.deepEqual(
    jobs.map(({ properties }) => properties.JobDefinitionName),
    ["mergeyard-test-worker", "mergeyard-test-sharder", "mergeyard-test-gpu-worker"],
  );
  for (const { properties } of jobs) {
    const container = at(properties, "ContainerProperties");
    assert.equal(at(container, "User"), "node");
    assert.equal(at(container, "ReadonlyRootFilesystem"), true);
    assert.equal(at(container, "LinuxParameters", "InitProcessEnabled"), true);
    assert.notEqual(at(container, "Privileged"), true);
    assert.equal(at(container, "LogConfiguration", "LogDriver"), "awslogs");
    assert.ok(Number(at(properties, "Timeout", "AttemptDurationSeconds")) >= 3600);
    const names = z.array(z.looseObject({ Name: z.string() })).parse(at(container, "Environment"));
    for (const { Name } of names) assert.match(Name, /^(MERGEYARD_|AWS_REGION$|NVIDIA_DRIVER_CAPABILITIES$)/);
  }
});

test("the memory that a worker's engine may take is well below its container's, and the plan knows it", () => {
  const memory = (environment: Value | undefined) => {
    const list = z.array(z.looseObject({ Name: z.string(), Value: z.string() })).parse(environment);
    return Number(list.find(({ Name }) => Name === "MERGEYARD_MEMORY_BYTES")?.Value);
  };
  const container = at(standard.one("AWS::Batch::JobDefinition", "Worker").properties, "ContainerProperties");
  const engine = memory(at(container, "Environment"));
  const [limit] = z.array(z.looseObject({ Value: z.string() })).parse(at(container, "ResourceRequirements"));
  assert.ok(engine > 0 && engine < 0.7 * Number(limit?.Value) * 2 ** 20);
  const plan = standard.one("AWS::Lambda::Function", "Plan").properties;
  const fleet: unknown = JSON.parse(String(at(plan, "Environment", "Variables", "MERGEYARD_FLEET")));
  const { cpu, gpu } = fleetSchema.parse(fleet);
  assert.equal(engineBytes(cpu.memoryMiB), engine);
  assert.deepEqual([cpu.memoryMiB, gpu], [Number(limit?.Value), null]);
});

test("machines are Spot first, then on-demand, and a job that waits for one too long fails", () => {
  const queue = standard.one("AWS::Batch::JobQueue");
  const byArn = new Map(
    standard
      .ofType("AWS::Batch::ComputeEnvironment")
      .map((entry) => [`${entry.stack}/${entry.id}.ComputeEnvironmentArn`, entry]),
  );
  const order = z.array(z.looseObject({ ComputeEnvironment: z.string(), Order: z.int() }));
  const kinds = order
    .parse(queue.properties.ComputeEnvironmentOrder)
    .toSorted((a, b) => a.Order - b.Order)
    .map(({ ComputeEnvironment }) => at(byArn.get(ComputeEnvironment)?.properties, "ComputeResources", "Type"));
  assert.deepEqual(kinds, ["SPOT", "EC2"]);
  for (const { properties } of byArn.values()) {
    // Families with the network of their size doubled.
    assert.deepEqual(at(properties, "ComputeResources", "InstanceTypes"), ["c6in", "m6in", "r6in"]);
  }
  const limits = z.array(
    z.looseObject({ State: z.string(), Action: z.string(), Reason: z.string(), MaxTimeSeconds: z.int() }),
  );
  const actions = limits.parse(queue.properties.JobStateTimeLimitActions);
  assert.equal(actions.length, 3);
  for (const action of actions) {
    assert.deepEqual([action.State, action.Action, action.MaxTimeSeconds], ["RUNNABLE", "CANCEL", 7200]);
  }
  for (const { properties } of full.ofType("AWS::Batch::ComputeEnvironment").filter(({ id }) => id.startsWith("Cpu"))) {
    assert.equal(at(properties, "ComputeResources", "Type"), "EC2", "spot: false");
  }
});

test("nothing runs while no job does", () => {
  for (const deployment of Object.values(DEPLOYMENTS)) {
    for (const { properties } of deployment.ofType("AWS::Batch::ComputeEnvironment")) {
      assert.equal(at(properties, "ComputeResources", "MinvCpus"), 0);
    }
  }
  assert.equal(standard.ofType("AWS::EC2::NatGateway").length, 0);
  const paid = standard
    .ofType("AWS::EC2::VPCEndpoint")
    .filter((entry) => entry.properties.VpcEndpointType !== "Gateway");
  assert.equal(paid.length, 0);
});

test("GPU machines have the image that is kept, and their jobs a GPU and Vulkan", () => {
  const environments = full.ofType("AWS::Batch::ComputeEnvironment").filter(({ id }) => id.startsWith("Gpu"));
  assert.equal(environments.length, 2);
  for (const { properties } of environments) {
    assert.equal(at(properties, "ComputeResources", "Ec2Configuration", 0, "ImageType"), "ECS_AL2023_NVIDIA");
    assert.deepEqual(at(properties, "ComputeResources", "InstanceTypes"), ["g5", "g6", "g6e"]);
  }
  const job = full.one("AWS::Batch::JobDefinition", "GpuWorker").properties;
  assert.match(text(at(job, "ContainerProperties", "ResourceRequirements")), /{"Type":"GPU","Value":"1"}/);
  assert.match(text(at(job, "ContainerProperties", "Environment")), /NVIDIA_DRIVER_CAPABILITIES[^}]*graphics/);
  for (const { properties } of full.ofType("AWS::Batch::ComputeEnvironment").filter(({ id }) => id.startsWith("Cpu"))) {
    assert.equal(at(properties, "ComputeResources", "Ec2Configuration", 0, "ImageType"), "ECS_AL2023");
  }
});

test("machines ask their metadata with tokens, encrypt their disks, and are made from the newest template", () => {
  for (const { properties } of full.ofType("AWS::EC2::LaunchTemplate")) {
    const data = at(properties, "LaunchTemplateData");
    assert.equal(at(data, "MetadataOptions", "HttpTokens"), "required");
    assert.equal(at(data, "BlockDeviceMappings", 0, "Ebs", "Encrypted"), true);
    assert.match(text(at(data, "UserData")), /ECS_ENABLE_SPOT_INSTANCE_DRAINING=true/);
  }
  for (const { properties } of full.ofType("AWS::Batch::ComputeEnvironment")) {
    assert.equal(at(properties, "ComputeResources", "LaunchTemplate", "Version"), "$Latest");
  }
});

test("nothing comes in, only HTTPS goes out, and S3 has its gateway", () => {
  for (const deployment of Object.values(DEPLOYMENTS)) {
    for (const { id, properties } of deployment.ofType("AWS::EC2::SecurityGroup")) {
      assert.equal(properties.SecurityGroupIngress, undefined, id);
      for (const rule of z.array(z.looseObject({})).parse(properties.SecurityGroupEgress ?? [])) {
        const isOut = rule.FromPort === 443 && rule.ToPort === 443;
        assert.ok(isOut || rule.CidrIp === "255.255.255.255/32", text(rule));
      }
    }
    const gateway = deployment
      .ofType("AWS::EC2::VPCEndpoint")
      .filter(({ properties }) => properties.VpcEndpointType === "Gateway");
    assert.equal(gateway.length, 1);
  }
  assert.equal(full.ofType("AWS::EC2::NatGateway").length, 1);
  assert.equal(full.ofType("AWS::EC2::FlowLog").length, 1);
  assert.equal(closed.ofType("AWS::EC2::InternetGateway").length, 0);
  const services = closed
    .ofType("AWS::EC2::VPCEndpoint")
    .map(({ properties }) => String(properties.ServiceName).split(".").slice(3).join("."));
  assert.deepEqual(services.sort(), [
    "batch",
    "ecr.api",
    "ecr.dkr",
    "ecs",
    "ecs-agent",
    "ecs-telemetry",
    "kms",
    "logs",
    "s3",
  ]);
  const ingress = closed.ofType("AWS::EC2::SecurityGroupIngress").map(({ properties }) => properties.FromPort);
  assert.deepEqual(ingress, [443]);
});
