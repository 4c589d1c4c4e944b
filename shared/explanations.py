"""Error codes in plain words: what happened, and what a person does next. The code itself always stays visible beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    cause: str
    next_step: str


_REGISTRY_AWAY = Explanation(
    "The registry could not be reached, or gave up answering, on every attempt.",
    "Check that the registry is up and reachable from the consumers, then replay.",
)
_DENIED = Explanation(
    "The registry refused the consumer's credential for this repository.",
    "Check auths in config.yml: the robot account needs pull and push on this project. Then replay.",
)
_BAD_IMAGE = Explanation(
    "The image itself is not what its manifest or its format says, so every attempt would end the same way.",
    "Look at the image (skopeo inspect, or pull it) and push it again; discard this letter if nobody needs it.",
)
_CONFIGURATION = Explanation(
    "The service is configured in a way that cannot work for this conversion.",
    "Correct config.yml (ics config check shows every problem), restart the consumers, then replay.",
)
_BUILDER = Explanation(
    "The external image builder could not run, or ended with an error.",
    "Look at the message and the consumer's log; check builder_path and the consumer's memory limit. Then replay.",
)
_TRUST = Explanation(
    "The registry's certificate is not trusted, has expired, or is for another name; the message says which.",
    "Renew it, or give its CA under auths.<host>.ca in config.yml and restart the consumers. Then replay.",
)
_MALFORMED = Explanation(
    "The message in the queue was no conversion request that this version understands.",
    "It cannot be replayed. Look at the raw body to see who sent it, then discard it.",
)
_STORE = Explanation(
    "The registry does not have, or does not keep, what it was asked for or was sent.",
    "Look at its log, its storage and its garbage collection, then replay.",
)
_ODD_ANSWER = Explanation(
    "The registry, or a proxy before it, answered in a way that its protocol does not know here.",
    "Read the message: it has the status. See what answers at that address, then replay.",
)
_NAME = Explanation(
    "The request names something that no registry can have.",
    "Look at the request and at the rule that made its target; correct it and push again, then discard this letter.",
)
_DOCKER_CREDENTIALS = Explanation(
    "Docker's configuration on the consumers, or a credential helper that it names, does not give a credential.",
    "Correct it, or give the registry a credential under auths in config.yml. Then replay.",
)

_BY_CODE = {
    "registry_unavailable": _REGISTRY_AWAY,
    "registry_timeout": _REGISTRY_AWAY,
    "upload_interrupted": _REGISTRY_AWAY,
    "rate_limited": Explanation(
        "The registry took no more requests, on every attempt.",
        "Raise its limit, or lower maximum_concurrency or the number of consumers. Then replay.",
    ),
    "blob_unknown": _STORE,
    "conflict": _STORE,
    "digest_refused": _STORE,
    "manifest_blob_unknown": _STORE,
    "manifest_refused": _STORE,
    "not_found": _STORE,
    "range_refused": _STORE,
    "upload_invalid": _STORE,
    "upload_unknown": _STORE,
    "invalid_request": _ODD_ANSWER,
    "precondition_failed": _ODD_ANSWER,
    "unexpected_answer": _ODD_ANSWER,
    "unsupported_by_registry": _ODD_ANSWER,
    "name_unknown": Explanation(
        "The target's project or repository does not exist, and the registry does not make it.",
        "Create it, or choose another target_repository. Then replay.",
    ),
    "invalid_digest": _NAME,
    "invalid_host": _NAME,
    "invalid_reference": _NAME,
    "invalid_url": _NAME,
    "credential_helper_failed": _DOCKER_CREDENTIALS,
    "credential_helper_timeout": _DOCKER_CREDENTIALS,
    "invalid_docker_config": _DOCKER_CREDENTIALS,
    "unauthorized": _DENIED,
    "denied": _DENIED,
    "invalid_credential": _DENIED,
    "tls_error": _TRUST,
    "invalid_certificate": _TRUST,
    "corrupt_layer": _BAD_IMAGE,
    "digest_mismatch": _BAD_IMAGE,
    "invalid_manifest": _BAD_IMAGE,
    "invalid_config": _BAD_IMAGE,
    "unsupported": Explanation(
        "The image holds something that the chosen format cannot express.",
        "Choose another driver for this repository (rules in config.yml), or discard this letter.",
    ),
    "unsupported_media_type": Explanation(
        "The image uses a media type that cannot be converted.",
        "Exclude the repository in rules, or discard this letter.",
    ),
    "limit_exceeded": Explanation(
        "The image is larger than a configured limit; the message names the limit.",
        "Raise that limit in config.yml if the image is legitimate, restart the consumers, then replay.",
    ),
    "manifest_too_large": Explanation(
        "The converted manifest is larger than the registry accepts.",
        "Convert fewer platforms, or raise the registry's limit, then replay.",
    ),
    "manifest_unknown": Explanation(
        "The source image is gone: deleted or moved before it was converted.",
        "Push it again if it is still wanted, else discard this letter.",
    ),
    "policy_violation": Explanation(
        "A Harbor project policy (such as a required scan or signature) kept the image from being pulled.",
        "Wait for the scan or satisfy the policy, then replay.",
    ),
    "quota_exceeded": Explanation(
        "The target's project has no room left: its quota is spent.",
        "Raise the quota in Harbor, or delete artifacts and run its garbage collection. Then replay.",
    ),
    "immutable_tag": Explanation(
        "The target tag is immutable in its project and exists already.",
        "Allow it in the project's immutability rules, or choose another target_suffix. Then replay.",
    ),
    "host_not_allowed": Explanation(
        "The image lives on a registry that is not in the allow-list.",
        "Add the host to auths in config.yml if it is trusted, restart, then replay.",
    ),
    "proxy_refused": Explanation(
        "The proxy in front of the registry refused to lead there.",
        "Correct the user and password in auths.<host>.proxy, or the proxy's own rules, restart the consumers, then replay.",
    ),
    "plain_http_refused": Explanation(
        "The registry only speaks plain HTTP, which is not allowed for this host.",
        "Set auths.<host>.insecure: true if that is intended, restart the consumers, then replay.",
    ),
    "conversion_timeout": Explanation(
        "Every attempt took longer than timeouts.conversion.",
        "Raise the time-out (and RabbitMQ's consumer_timeout above it) or give consumers more CPU. Then replay.",
    ),
    "delivery_limit": Explanation(
        "Consumers took this message again and again and vanished without an outcome: it may crash them.",
        "Look for crashes and out-of-memory kills in the consumers' logs before you replay, and replay it alone.",
    ),
    "malformed_message": _MALFORMED,
    "not_replayable": _MALFORMED,
    "message_too_large": _MALFORMED,
    "invalid_configuration": _CONFIGURATION,
    "invalid_options": _CONFIGURATION,
    "unknown_driver": _CONFIGURATION,
    "oci_required": _CONFIGURATION,
    "target_not_ours": Explanation(
        "The target tag holds an image that this service did not make, so it was not overwritten.",
        "Remove or rename that tag, or choose another target_suffix. Then replay.",
    ),
    "source_moves": Explanation(
        "The source tag kept moving while it was converted.",
        "The newest push has a conversion of its own; discard this letter.",
    ),
    "work_dir_unwritable": _CONFIGURATION,
    "builder_unavailable": _BUILDER,
    "builder_failed": _BUILDER,
    "builder_killed": _BUILDER,
    "local_resource": Explanation(
        "The image wants more disk, open files, memory or threads than a consumer's machine has, also when it has plenty; or none "
        "had enough for as long as retry.maximum_outage.",
        "The message says of what. Give the consumers more of it, then replay.",
    ),
    "invalid_nydus": Explanation(
        "A Nydus image failed the check that is made before it is pushed, or a layer of it could not be read back.",
        "Nothing was pushed. Keep an export of this letter and report it: it is a defect.",
    ),
    "unclassified": Explanation(
        "An error that the service has no class for, most likely a defect of its own.",
        "Read the message and the trace, and the consumer's log at that time; report it, and replay after a fix.",
    ),
    "too_large": Explanation(
        "The registry refused a blob or manifest as too large.",
        "Raise the limit of the registry or of the proxy before it (client_max_body_size), then replay.",
    ),
}
_UNKNOWN = Explanation(
    "An error that this page has no words for.",
    "Read the message and the trace; replay once the cause is gone.",
)


def explain(code: str) -> Explanation:
    return _BY_CODE.get(code, _UNKNOWN)
