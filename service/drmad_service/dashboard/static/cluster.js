// Keeps the cluster page current. Polling shows changes that cause no event, such as a lost node.
import "./charts.js";
import { Follower, refresh } from "./live.js";

new Follower(() => "/live", { change: refresh, back: refresh });
setInterval(() => document.hidden || refresh(), 5000);
setInterval(() => document.querySelector("job-chart").stale(), 60_000);
