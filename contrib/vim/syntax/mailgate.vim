" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective addr address address_literals all allow_loopback announce_size
syntax keyword mailgateDirective attempt_starttls attempts attribute auth auth_insecure auth_mechanisms
syntax keyword mailgateDirective auth_required auth_required_message backoff balance banner base_dn bind
syntax keyword mailgateDirective body_spool_limit bounce ca cache cache_size case_insensitive cert certificate
syntax keyword mailgateDirective check chunking ciphers client_auth client_ca command_timeout compare
syntax keyword mailgateDirective concurrency connect connect_timeout connections control copy_to create curves
syntax keyword mailgateDirective dane data data_block data_timeout debug default_destination default_source
syntax keyword mailgateDirective defer_sender_reject deliver_to destaddr destination destination_in destport
syntax keyword mailgateDirective disable_commands discard dn_template dnssec early_talker ehlo endpoint entry
syntax keyword mailgateDirective expand_placeholders expect expire failover failures fallback_delay file
syntax keyword mailgateDirective filter final_dot from full_match given greeting greeting_delay
syntax keyword mailgateDirective handshake_timeout header health helo helo_response hide hide_client
syntax keyword mailgateDirective hold_timeout hostname ident idle_timeout import insecure_auth ip ip_strategy
syntax keyword mailgateDirective key lease_timeout level limits listener local_domains local_policy log
syntax keyword mailgateDirective log_name login mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_unauthenticated_commands min_mx_level
syntax keyword mailgateDirective min_tls_level modify mta_sts mtasts mtasts_root_ca multihomed_limit mx_auth
syntax keyword mailgateDirective mx_limit name negative negative_cache network nonlocal_source notify nul
syntax keyword mailgateDirective on_error on_fail on_split optional_step port positive private_key probe proto
syntax keyword mailgateDirective protocol protocols proxy_protocol quiet_hosts quit rcpt rcpt_to read_timeout
syntax keyword mailgateDirective refuse_clients reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective reserved_connections resolver retry reverse_lookup reverse_lookup_timeout
syntax keyword mailgateDirective root_ca rset runtime_dir schemes scope sender servers session_timeout
syntax keyword mailgateDirective shutdown_timeout size slow_start smtp_max_line_length sni sni_lookup
syntax keyword mailgateDirective socket_group socket_mode socket_owner source source_in source_ip
syntax keyword mailgateDirective source_ip_fallback source_selection starttls state_dir step store
syntax keyword mailgateDirective strict_addresses strict_line_endings submission_timeout target targets tarpit
syntax keyword mailgateDirective tempfail timeout timeouts tls tls_capture_peer_cert tls_ciphers tls_client
syntax keyword mailgateDirective tls_client_cert tls_default_ca tls_protocols tls_sni tls_start
syntax keyword mailgateDirective tls_verify_host tls_verify_name token total trust trusted urls user
syntax keyword mailgateDirective user_attribute users verify verify_failure weight xclient xclient_required
syntax keyword mailgateDirective xforward
syntax keyword mailgateModule admin auth.external auth.file auth.ldap auth.smtp auth.static chain
syntax keyword mailgateModule check.matching_helo check.require_auth check.require_mx
syntax keyword mailgateModule check.require_reverse_dns check.require_tls check.verify_recipient checks
syntax keyword mailgateModule email_localpart email_with_domain external identity ldap lmtp maildir
syntax keyword mailgateModule matching_helo modifiers modify.replace_rcpt modify.replace_sender msgpipeline
syntax keyword mailgateModule pki queue regexp remote replace_rcpt replace_sender require_auth require_mx
syntax keyword mailgateModule require_reverse_dns smtp source_address static submission table.chain
syntax keyword mailgateModule table.email_localpart table.email_with_domain table.file table.identity
syntax keyword mailgateModule table.ldap table.regexp table.static target.lmtp target.maildir target.queue
syntax keyword mailgateModule target.remote target.smtp test verify_recipient
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2
syntax keyword mailgateValue accept allow argon2 authenticated auto base bcrypt clear cram-md5
syntax keyword mailgateValue dane_fallback_require_verify dane_require defer disabled encrypted error false
syntax keyword mailgateValue fingerprint forward happy_eyeballs ignore info ipv4_only ipv4_then_ipv6 ipv6_only
syntax keyword mailgateValue ipv6_then_ipv4 json least_busy next no none normalize oauthbearer off on one
syntax keyword mailgateValue operate optional optional_verify ordered plain random require require_verify
syntax keyword mailgateValue round_robin scram-sha-256 self_signed sha256-crypt sha512-crypt sqlite stderr
syntax keyword mailgateValue stdout strip sub subject syslog true v1 v2 view warn xoauth2 yes yescrypt
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
