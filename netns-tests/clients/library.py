"""What python-consul 1.1.0 and py-consul 1.8.0 are used for, against the agent of this host.

usage: python library.py. Ends with 0 and `ok NAME` a line, or with the first thing that is not as it should be."""

import base64
import threading
import time

import consul

agent = consul.Consul(host="127.0.0.1", port=8500)


def expect(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r} instead of {wanted!r}")


def keys():
    expect("a key that is not there", agent.kv.get("contract/none")[1], None)
    expect("put", agent.kv.put("contract/a", "1"), True)
    index, row = agent.kv.get("contract/a")
    expect("its value", row["Value"], b"1")
    expect("flags", row["Flags"], 0)
    expect("cas at 0 of a key that is there", agent.kv.put("contract/a", "2", cas=0), False)
    expect("cas at its index", agent.kv.put("contract/a", "2", cas=row["ModifyIndex"]), True)
    expect("cas at the old index", agent.kv.put("contract/a", "3", cas=row["ModifyIndex"]), False)
    later, same = agent.kv.get("contract/a")
    if int(later) <= int(index):
        raise SystemExit(f"the index went from {index} to {later}")
    expect("put of the same value", agent.kv.put("contract/a", "2"), True)
    expect("its index", agent.kv.get("contract/a")[1]["ModifyIndex"], same["ModifyIndex"])
    expect("put with flags", agent.kv.put("contract/b/c", b"\x00\xff", flags=42), True)
    _, rows = agent.kv.get("contract/", recurse=True)
    expect("recursive", [(row["Key"], row["Flags"]) for row in rows], [("contract/a", 0), ("contract/b/c", 42)])
    expect("bytes", rows[1]["Value"], b"\x00\xff")
    expect("names", agent.kv.get("contract/", keys=True, separator="/")[1], ["contract/a", "contract/b/"])
    expect("delete", agent.kv.delete("contract/", recurse=True), True)
    expect("what is left", agent.kv.get("contract/", recurse=True)[1], None)


def blocking():
    agent.kv.put("contract/wait", "old")
    index, _ = agent.kv.get("contract/wait")
    found = []
    waiting = threading.Thread(target=lambda: found.append(agent.kv.get("contract/wait", index=index, wait="30s")))
    waiting.start()
    time.sleep(0.2)
    expect("a query that waits", found, [])
    agent.kv.put("contract/wait", "new")
    waiting.join(20)
    expect("what it was told", [row["Value"] for _, row in found], [b"new"])
    agent.kv.delete("contract/wait")


def services():
    check = consul.Check.ttl("10m")
    expect("register", agent.agent.service.register("contract", service_id="contract-1", address="10.32.0.9", port=81,
                                                    tags=["blue", "v1"], check=check), True)
    own = agent.agent.services()["contract-1"]
    expect("service", (own["Service"], own["Port"], own["Tags"]), ("contract", 81, ["blue", "v1"]))

    def passing():
        return [entry["Service"]["ID"] for entry in agent.health.service("contract", passing=True)[1]]

    expect("passing before its report", passing(), [])
    expect("report", agent.agent.check.ttl_pass("service:contract-1"), True)
    wait_for("it passes", lambda: passing() == ["contract-1"])
    expect("with its tag", len(agent.health.service("contract", tag="blue")[1]), 1)
    expect("with another tag", agent.health.service("contract", tag="green")[1], [])
    row = agent.catalog.service("contract")[1][0]
    expect("catalogue", (row["ServiceAddress"], row["ServicePort"]), ("10.32.0.9", 81))
    expect("names", sorted(agent.catalog.services()[1]["contract"]), ["blue", "v1"])
    # py-consul wants a bool and sends `True`; with python-consul everybody has his own words.
    for on, off in ((True, False), ("true", "false")):
        expect("maintenance", agent.agent.service.maintenance("contract-1", on, "why"), True)
        wait_for("it is taken out", lambda: passing() == [])
        expect("maintenance off", agent.agent.service.maintenance("contract-1", off), True)
        wait_for("it is back", lambda: passing() == ["contract-1"])
    expect("report", agent.agent.check.ttl_fail("service:contract-1"), True)
    wait_for("it fails", lambda: passing() == [])
    states = {check["CheckID"]: check["Status"] for check in agent.health.checks("contract")[1]}
    expect("its check", states["service:contract-1"], "critical")
    expect("deregister", agent.agent.service.deregister("contract-1"), True)
    wait_for("it is gone", lambda: agent.catalog.service("contract")[1] == [])


def cluster():
    expect("datacenters", agent.catalog.datacenters(), ["dc1"])
    names = sorted(node["Node"] for node in agent.catalog.nodes()[1])
    expect("nodes", names, ["a", "b", "c"])
    expect("itself", agent.agent.self()["Config"]["NodeName"], "a")
    expect("members", sorted(member["Name"] for member in agent.agent.members()), names)
    if ":" not in agent.status.leader():
        raise SystemExit(f"leader: {agent.status.leader()!r}")
    expect("peers", len(agent.status.peers()), 3)
    expect("node checks", {check["Status"] for check in agent.health.node("b")[1]}, {"passing"})


def sessions():
    first = agent.session.create(name="first", ttl=60, lock_delay=0)
    second = agent.session.create(name="second", ttl=60)
    expect("lock", agent.kv.put("contract/lock", "first", acquire=first), True)
    expect("lock of another", agent.kv.put("contract/lock", "second", acquire=second), False)
    expect("holder", agent.kv.get("contract/lock")[1]["Session"], first)
    expect("renewed", agent.session.renew(first)["Name"], "first")
    expect("release", agent.kv.put("contract/lock", "first", release=first), True)
    expect("lock again", agent.kv.put("contract/lock", "second", acquire=second), True)
    listed = {session["Name"] for session in agent.session.list()[1]}
    if not {"first", "second"} <= listed:
        raise SystemExit(f"sessions: {listed}")
    for session in (first, second):
        expect("destroy", agent.session.destroy(session), True)
    wait_for("its lock is free", lambda: "Session" not in agent.kv.get("contract/lock")[1])
    agent.kv.delete("contract/lock")


def transactions():
    value = base64.b64encode(b"x").decode()
    keys = ["contract/txn/a", "contract/txn/b"]
    agent.txn.put([{"KV": {"Verb": "set", "Key": key, "Value": value}} for key in keys])
    expect("set by a transaction", [agent.kv.get(key)[1]["Value"] for key in keys], [b"x", b"x"])
    agent.kv.delete("contract/txn/", recurse=True)


def wait_for(what, condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise SystemExit(f"in vain: {what}")


for part in (cluster, keys, blocking, services, sessions, transactions):
    part()
    print("ok", part.__name__, flush=True)
