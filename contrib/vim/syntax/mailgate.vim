" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective addr address address_literals all allow_loopback announce_size
syntax keyword mailgateDirective attempt_starttls attempts auth auth_insecure auth_mechanisms auth_required
syntax keyword mailgateDirective auth_required_message backoff balance banner body_spool_limit bounce ca cache
syntax keyword mailgateDirective case_insensitive cert certificate check chunking ciphers client_auth
syntax keyword mailgateDirective client_ca command_timeout concurrency connect connect_timeout control copy_to
syntax keyword mailgateDirective create curves dane data data_block data_timeout debug default_destination
syntax keyword mailgateDirective default_source defer_sender_reject deliver_to destaddr destination
syntax keyword mailgateDirective destination_in destport disable_commands discard dnssec early_talker ehlo
syntax keyword mailgateDirective endpoint entry expand_placeholders expect expire failover failures
syntax keyword mailgateDirective fallback_delay file final_dot from full_match given greeting greeting_delay
syntax keyword mailgateDirective handshake_timeout header health helo helo_response hide hide_client
syntax keyword mailgateDirective hold_timeout hostname ident idle_timeout import insecure_auth ip ip_strategy
syntax keyword mailgateDirective key lease_timeout level limits listener local_domains local_policy log
syntax keyword mailgateDirective log_name login mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_unauthenticated_commands min_mx_level
syntax keyword mailgateDirective min_tls_level modify mta_sts mtasts mtasts_root_ca multihomed_limit mx_auth
syntax keyword mailgateDirective mx_limit name negative network nonlocal_source notify nul on_split
syntax keyword mailgateDirective optional_step port positive private_key probe proto protocol protocols
syntax keyword mailgateDirective proxy_protocol quiet_hosts quit rcpt rcpt_to read_timeout refuse_clients
syntax keyword mailgateDirective reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective reserved_connections resolver retry reverse_lookup reverse_lookup_timeout
syntax keyword mailgateDirective root_ca rset runtime_dir schemes sender servers session_timeout
syntax keyword mailgateDirective shutdown_timeout size slow_start smtp_max_line_length sni sni_lookup
syntax keyword mailgateDirective socket_group socket_mode socket_owner source source_in source_ip
syntax keyword mailgateDirective source_ip_fallback source_selection state_dir step store strict_addresses
syntax keyword mailgateDirective strict_line_endings submission_timeout target targets tarpit tempfail timeout
syntax keyword mailgateDirective timeouts tls tls_capture_peer_cert tls_ciphers tls_client tls_client_cert
syntax keyword mailgateDirective tls_default_ca tls_protocols tls_sni tls_start tls_verify_host
syntax keyword mailgateDirective tls_verify_name token total trust trusted user users verify_failure weight
syntax keyword mailgateDirective xclient xclient_required xforward
syntax keyword mailgateModule admin auth.external auth.file auth.smtp auth.static chain check.verify_recipient
syntax keyword mailgateModule checks email_localpart email_with_domain external identity lmtp maildir
syntax keyword mailgateModule modifiers modify.replace_rcpt modify.replace_sender msgpipeline pki queue regexp
syntax keyword mailgateModule remote replace_rcpt replace_sender smtp source_address static submission
syntax keyword mailgateModule table.chain table.email_localpart table.email_with_domain table.file
syntax keyword mailgateModule table.identity table.regexp table.static target.lmtp target.maildir target.queue
syntax keyword mailgateModule target.remote target.smtp test verify_recipient
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2
syntax keyword mailgateValue accept allow argon2 authenticated auto bcrypt clear cram-md5
syntax keyword mailgateValue dane_fallback_require_verify dane_require defer disabled encrypted error false
syntax keyword mailgateValue fingerprint forward happy_eyeballs ignore info ipv4_only ipv4_then_ipv6 ipv6_only
syntax keyword mailgateValue ipv6_then_ipv4 json least_busy next no none normalize oauthbearer off on operate
syntax keyword mailgateValue optional optional_verify ordered plain random require require_verify round_robin
syntax keyword mailgateValue scram-sha-256 self_signed sha256-crypt sha512-crypt sqlite stderr stdout strip
syntax keyword mailgateValue subject syslog true v1 v2 verify view warn xoauth2 yes yescrypt
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
