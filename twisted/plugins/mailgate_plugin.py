from twisted.application.service import ServiceMaker

mailgate = ServiceMaker(
    "mailgate", "mailgate.service", "A mail gateway: ESMTP and LMTP in, a pipeline, pooled SMTP and LMTP out.", "mailgate"
)
