// Listens with marathon-event-bus-client to all types that it knows: eventbus_listen.js FOLDER HOST PORT PATH. The token comes in the
// environment, TOKEN; an empty one is not sent. Prints a line of JSON for each thing that happens. Ends with its standard input.
"use strict";

const path = require("path");
const [folder, host, port, uri] = process.argv.slice(2);
const Client = require(path.join(folder, "node_modules", "marathon-event-bus-client"));

const line = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
// The names are the client's own; without any it takes three.
const types = new Client({}).allowedEventTypes;
const handlers = {};
for (const type of types) {
  handlers[type] = (name, data) => line({ event: name, data });
}
const client = new Client({
  marathonHost: host,
  marathonPort: port,
  marathonProtocol: "https",
  marathonUri: uri,
  marathonHeaders: process.env.TOKEN ? { Authorization: `token=${process.env.TOKEN}` } : {},
  eventTypes: types,
  handlers,
});
client.on("subscribed", () => line({ subscribed: types }));
client.on("error", (what) => line({ error: (what.error && what.error.status) || 0 }));
client.subscribe();
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
